"""What evaluation units are: digests that depend on text, tokens and context, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from hf_difflm.data import Collator
from hf_difflm.evaluation.likelihood import contents
from hf_difflm.evaluation.likelihood.contents import unit_contents
from hf_difflm.runs import load_run
from hf_difflm.runs.comparing.pairing import PairedDifference, UnpairedDifference, paired_difference

BOS, EOS = 256, 257


def _rows(texts, block_size):
    """Texts joined by EOS and cut into blocks after a BOS, as the packer does."""
    ids = np.concatenate([[*text.encode(), EOS] for text in texts])
    documents = np.repeat(np.arange(len(texts)), [len(text.encode()) + 1 for text in texts])
    width = block_size - 1
    return [
        {
            "input_ids": [BOS, *ids[start : start + width].tolist()],
            "document_ids": [-1, *documents[start : start + width].tolist()],
        }
        for start in range(0, len(ids) - width + 1, width)
    ]


def _contents(rows, tokenizer, unit="documents", **collator):
    return unit_contents(rows, Collator(tokenizer, **collator), unit, tokenizer)


TEXTS = ["one, two", "thrée", "four five six", "x" * 30]


def test_the_text_of_a_document_is_its_own_whatever_blocks_it_lies_in(tokenizer):
    found, other = (_contents(_rows(TEXTS, size), tokenizer) for size in (8, 12))
    whole = slice(0, 3)  # of the last document the end does not fill a block
    assert found.text[whole] == other.text[whole]
    assert found.tokens[whole] == other.tokens[whole]
    assert not set(found.context) & set(other.context)
    assert found.num_bytes[whole] == [8, 6, 13]


def test_a_word_changed_changes_its_document_and_the_context_of_those_beside_it(tokenizer):
    before, after = (_contents(_rows(texts, 8), tokenizer) for texts in (TEXTS, ["one, twa", *TEXTS[1:]]))
    assert [a == b for a, b in zip(before.text, after.text, strict=True)] == [False, True, True, True]
    assert [a == b for a, b in zip(before.context, after.context, strict=True)] == [False, False, True, True]


@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_and_the_size_of_batches_leave_no_trace(tokenizer, train_rows, monkeypatch, side):
    rows = train_rows(9, ragged=True, prompts=True)
    found = _contents(rows, tokenizer, "blocks")
    monkeypatch.setattr(contents, "_ROWS_AT_ONCE", 2)
    assert _contents(rows, tokenizer, "blocks", padding_side=side) == found


def test_a_prompt_is_context_and_no_text(tokenizer):
    rows = [
        {"input_ids": [BOS, *b"Q1 A"], "labels": [-100] * 4 + [65]},
        {"input_ids": [BOS, *b"Q2 A"], "labels": [-100] * 4 + [65]},
    ]
    found = _contents(rows, tokenizer, "blocks")
    assert len(set(found.text)) == len(set(found.tokens)) == 1
    assert len(set(found.context)) == 2
    assert found.num_bytes == [1, 1]


@pytest.mark.borders
def test_twins_are_paired_over_what_both_scored_and_runs_on_other_blocks_are_not(
    make_diffusion_trainer, train_rows, tmp_path
):
    runs = {}
    for name, objective, seed in (("mdlm", "mdlm", 5), ("ar", "ar", 5), ("elsewhere", "ar", 6)):
        trainer = make_diffusion_trainer(
            objective=objective,
            evaluation=train_rows(8, seed=seed),
            output_dir=str(tmp_path / name),
            eval_strategy="steps",
            eval_steps=3,
            max_steps=3,
        )
        trainer.train()
        runs[name] = load_run(tmp_path / name)
    twins = paired_difference(runs["mdlm"], runs["ar"])
    assert isinstance(twins, PairedDifference)
    assert (twins.units, twins.unit) == (8, "blocks")
    apart = paired_difference(runs["mdlm"], runs["elsewhere"])
    assert isinstance(apart, UnpairedDifference)
    assert apart.nats is None
    assert "they were evaluated on different texts" in str(apart)
