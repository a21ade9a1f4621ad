"""Texts on disk for streams, and what a stream of them must hold, found in another way."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_difflm.data import DataOptions, PreparedData, prepare_data
from hf_difflm.data.streaming import BlockStream


def texts(count: int, seed: int = 0, longest: int = 120) -> list[str]:
    """Different documents of different lengths, some with letters of several bytes."""
    generator = np.random.default_rng(seed)
    letters = np.array([*"abcdefgh äß😀\n"])
    return [f"{seed}.{i} " + "".join(generator.choice(letters, generator.integers(0, longest))) for i in range(count)]


def write_jsonl(path: Path, documents: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


def write_parquet(path: Path, documents: list[str], row_group: int) -> Path:
    datasets.Dataset.from_dict({"text": documents}).to_parquet(path, batch_size=row_group)
    return path


def stream(dataset: object, tokenizer: PreTrainedTokenizerBase, **options: object) -> PreparedData:
    """``prepare_data`` of a stream in small windows."""
    settings = {"dataset": str(dataset), "streaming": True, "block_size": 16, "shuffle_window": 8, "max_eval_blocks": 2}
    return prepare_data(DataOptions(**(settings | options)), tokenizer)  # type: ignore[arg-type]


def joined(documents: Iterable[str], eos: int = 257) -> list[int]:
    """Bytes of documents with EOS between them."""
    ids: list[int] = []
    for number, text in enumerate(documents):
        ids += [eos] * bool(number) + list(text.encode())
    return ids


def tokens(train: BlockStream, count: int) -> list[int]:
    """The scored tokens of the first blocks, in the order of the text."""
    return [token for index in range(count) for token in train[index]["input_ids"][1:].tolist()]
