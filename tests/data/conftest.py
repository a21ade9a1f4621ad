"""Every test here reads and writes a cache of its own session, never the user's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase

from hf_difflm.data import DataOptions, PreparedData, load_tokenizer, prepare_data

SAMPLE = [
    "The cat sat on the mat, and the other cat sat there too.",
    "naïve café 😀 emoji",
    "int main(void) { return 0; }",
]


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf_datasets")


@pytest.fixture(autouse=True)
def _own_cache(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache_folder)


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerBase:
    return load_tokenizer("bytes")


@pytest.fixture(scope="session")
def gpt2_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json as GPT-2's: byte-level BPE with merges, whose one special token is <|endoftext|>."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(SAMPLE * 4, trainer)
    path = tmp_path_factory.mktemp("gpt2_like") / "tokenizer.json"
    backend.save(str(path))
    return path


@pytest.fixture(scope="session")
def bert_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json as BERT's: it lower-cases, strips accents, drops spaces and has unknown words."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(SAMPLE[:1] * 4, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    path = tmp_path_factory.mktemp("bert_like") / "tokenizer.json"
    backend.save(str(path))
    return path


@pytest.fixture
def prepare(byte_level: PreTrainedTokenizerBase) -> Callable[..., PreparedData]:
    """``prepare(dataset, block_size=8, ...)`` with the byte tokenizer unless another one is given."""

    def call(
        dataset: object, tokenizer: PreTrainedTokenizerBase = byte_level, need_train: bool = True, **options: object
    ) -> PreparedData:
        settings = {"dataset": str(dataset), "block_size": 8} | options
        return prepare_data(DataOptions(**settings), tokenizer, need_train=need_train)  # type: ignore[arg-type]

    return call
