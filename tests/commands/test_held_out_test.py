"""Own text: the set that chooses ``best/`` is not the set of the headline."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from hf_difflm.runs import compare_runs, load_run
from hf_difflm.runs.comparing.units import read_units

pytestmark = pytest.mark.borders


@pytest.fixture
def own_text() -> Path:
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(200)]
    texts = [" ".join(draw.choices(words, k=40)) for _ in range(120)]
    path = Path("own.jsonl")
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_the_headline_of_own_text_is_of_documents_that_did_not_choose_the_weights(hf, tiny, own_text):
    flags = [*tiny[2:], "--dataset", own_text, "--max-steps", "3"]  # without --dataset markov
    result = hf("train", *flags, "--output-dir", "run")
    assert result.code == 0, result.err
    run = load_run("run")
    test = run.test_evaluation
    assert f"test: nll {test.nll:.4f}" in result.out
    assert test.nll != run.best_evaluation.nll
    evaluated = json.loads(hf("eval", "run", "--split", "test", "--json").out)
    assert evaluated["eval_nll"] == pytest.approx(test.nll, rel=1e-6)
    chosen, quoted = read_units(run), read_units(run.quoting_test())
    assert not set(chosen.text) & set(quoted.text)
    assert quoted.nll.sum() / quoted.tokens.sum() == pytest.approx(test.nll, rel=1e-6)
    assert np.isfinite(quoted.nll).all()
    comparison = compare_runs([run])
    assert comparison.rows[0].eval_nll == test.nll
    assert "The numbers are of the test" in comparison.to_text()
    assert f"test       {test.nll:.4f}" in hf("runs", "show", "run").out
    assert hf("push", "run", "--repo-id", "o/n", "--dry-run", "--export-dir", "dry").code == 0
    card = Path("dry/README.md").read_text()
    assert f"{test.nll:.4f}" in card
    assert f"{run.best_evaluation.nll:.4f}" not in card
    assert "split: test" in card


def test_a_comparison_quotes_one_kind_of_set_for_all_runs(hf, tiny, own_text):
    flags = [*tiny[2:], "--dataset", own_text, "--max-steps", "3"]
    assert hf("train", *flags, "--output-dir", "with").code == 0
    assert hf("train", *flags, "--test-fraction", "0", "--objective", "ar", "--output-dir", "without").code == 0
    runs = [load_run("with"), load_run("without")]
    comparison = compare_runs(runs)
    assert [row.eval_nll for row in comparison.rows] == [run.best_evaluation.nll for run in runs]
    assert "there is no test of own-ar" in comparison.to_text()


def test_a_data_set_with_splits_of_its_own_keeps_its_evaluation_set(trained):
    run = load_run(trained)
    assert (run.test_evaluation, compare_runs([run]).split) == (None, "")


@pytest.mark.parametrize("streaming", [[], ["--streaming"]])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_what_was_trained_on_is_never_evaluated_as_held_out(hf, tiny, own_text, streaming, split):
    """A run with an evaluation file of its own has trained on all of its text: no share of it is held out afterwards."""
    lines = own_text.read_text().splitlines(keepends=True)
    Path("mine.jsonl").write_text("".join(lines[:90]))
    Path("held.jsonl").write_text("".join(lines[90:]))
    flags = [*tiny[2:], "--dataset", "mine.jsonl", "--eval-dataset", "held.jsonl", "--max-steps", "3", *streaming]
    assert hf("train", *flags, "--output-dir", "run").code == 0
    refused = hf("eval", "run", "--split", split)
    assert (refused.code, refused.out) == (2, "")
    errors = [line for line in refused.err.splitlines() if line.startswith("error: ")]
    assert errors == [
        f"error: run/best held out no {split} split: its eval_dataset is held.jsonl, and it trained on all of its own "
        "text; leave --split out, or name a text with --dataset"
    ]
    assert load_run("run").test_evaluation is None
