"""``num_bytes`` of a user's own rows: bits per byte only where the tokens give these bytes back."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_difflm.data import Collator
from hf_difflm.evaluation.likelihood.contents import lost_bytes

pytestmark = pytest.mark.borders

TEXTS = ["It was the best of times, ", "thrée 😀 and a half, ", "x" * 26]


@pytest.fixture
def words() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, in lower case, with an unknown one."""
    vocabulary = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "[MASK]", "the", "cat", "sat"]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {
        name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "bos_token", "eos_token", "mask_token")
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def of_bytes(texts: list[str]) -> list[dict[str, Any]]:
    return [{"input_ids": [256, *text.encode()], "num_bytes": len(text.encode())} for text in texts]


def test_bytes_that_the_tokens_give_back_are_kept(make_diffusion_trainer, caplog):
    rows = of_bytes(TEXTS)
    rows.append({"input_ids": [256, *"😀😀".encode()[2:-1]], "num_bytes": 5})  # cut within characters
    trainer = make_diffusion_trainer(evaluation=rows)
    with caplog.at_level(logging.WARNING):
        assert trainer.evaluate()["eval_bpb"] > 0
    assert "num_bytes" not in caplog.text


def test_other_bytes_than_those_of_the_tokens_give_no_bits_per_byte(make_diffusion_trainer, caplog):
    rows = [{**row, "num_bytes": 2 * row["num_bytes"]} for row in of_bytes(TEXTS)]
    trainer = make_diffusion_trainer(evaluation=rows)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert "eval_bpb" not in trainer.evaluate()
    told, given = sum(row["num_bytes"] for row in rows), sum(len(text.encode()) for text in TEXTS)
    sentence = f"num_bytes says {told} bytes where the tokens of 3 rows give back {given} (0 tokens are unknown)"
    assert caplog.text.count(sentence) == 1


def test_unknown_tokens_give_no_bytes_back(words):
    texts = ["the cat sat", "the dog sat"]
    rows = [{"input_ids": [2, *words.encode(text)], "num_bytes": len(text)} for text in texts]
    assert lost_bytes(rows[:1], Collator(words), words) == ""
    assert "(1 tokens are unknown)" in lost_bytes(rows, Collator(words), words)
