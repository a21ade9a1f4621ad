"""Text that the tokenizer cannot give back has no bits per byte, and the share of unknown tokens is said."""

from __future__ import annotations

import json

import pytest
from transformers import PreTrainedTokenizerFast

from hf_difflm.data import load_tokenizer

PLAIN = "the cat sat on the mat\n\n"
ODD = "The CAT sat, naïve 😀\n\n"


@pytest.fixture
def text(tmp_path):
    """``text(*documents)``: a file of them for training and one for evaluation."""

    def make(*documents):
        (tmp_path / "train.txt").write_text(PLAIN * 40)
        (tmp_path / "eval.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
        return {"dataset": tmp_path / "train.txt", "eval_dataset": str(tmp_path / "eval.jsonl")}

    return make


@pytest.mark.borders
def test_a_lossy_tokenizer_gets_no_bits_per_byte_and_its_unknown_tokens_are_counted(prepare, bert_like, text):
    data = prepare(**text(ODD * 3, "ab 😀" * 20), tokenizer=load_tokenizer(str(bert_like)), need_train=False)
    assert "num_bytes" not in data.eval.column_names
    assert data.counts["eval"].num_bytes is None
    assert (data.round_trip["documents"], data.round_trip["changed"]) == (2, 2)
    assert 0 < data.round_trip["unknown_share"] < 1
    (note,) = (note for note in data.notes if "does not give back" in note)
    share = f"{data.round_trip['unknown_share']:.1%} of the tokens are unknown"
    assert note.startswith("the tokenizer does not give back 2 of 2 evaluation documents")
    assert share in note


@pytest.mark.parametrize("name", ["bytes", "gpt2_like"])
def test_what_comes_back_keeps_its_bytes(prepare, text, request, name):
    tokenizer = load_tokenizer(name if name == "bytes" else str(request.getfixturevalue(name)))
    data = prepare(**text(ODD * 3, PLAIN * 4), tokenizer=tokenizer, need_train=False)
    assert data.round_trip == {}
    assert sum(data.eval["num_bytes"]) == data.counts["eval"].num_bytes > 0


def test_a_fine_tuning_set_is_judged_by_its_answers(prepare, tmp_path, bert_like):
    rows = [{"prompt": "ODD", "completion": answer} for answer in ("the cat", "The Cat")]
    for side, chosen in (("train", rows), ("eval", rows)):
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    files = {"dataset": tmp_path / "train.jsonl", "eval_dataset": str(tmp_path / "eval.jsonl")}
    tokenizer = load_tokenizer(str(bert_like))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    data = prepare(**files, tokenizer=tokenizer, need_train=False, sft=True, block_size=64)
    assert data.round_trip["changed"] >= 1
    assert "num_bytes" not in data.eval.column_names
    assert "bytes" not in data.counts["eval"].sentence(64)
