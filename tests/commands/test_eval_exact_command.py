"""``eval --exact`` and ``compare --exact``: numbers, the log, pages, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from hf_difflm.runs import compare_runs, load_run
from hf_difflm.runs.comparing.exact_orders import exact_numbers


@pytest.fixture
def twins(trained, trained_ar):
    """The two runs side by side, as ``compare`` leaves them."""
    folder = trained.parent / "both"
    shutil.copytree(trained, folder / "mdlm")
    shutil.copytree(trained_ar, folder / "ar")
    return folder


def test_it_stands_beside_the_bound_and_the_twin_of_the_same_blocks(hf, twins):
    result = hf("eval", twins / "mdlm", "--exact", "--exact-order", "left_to_right,entropy,random:2", "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    best = load_run(twins / "mdlm").best_evaluation
    assert record["eval_nll"] == pytest.approx(best.nll, abs=1e-6)
    assert record["bound"] == "nelbo"
    assert list(record["exact"]) == ["left_to_right", "entropy", "random:2"]
    twin = load_run(twins / "ar").best_evaluation.nll
    for one in record["exact"].values():
        assert one["bound"] == "exact"
        assert one["nelbo"] == record["eval_nll"]
        assert one["twin"] == pytest.approx(twin, abs=1e-6)
        assert one["minus_nelbo"] == pytest.approx(one["eval_exact_nll"] - record["eval_nll"], abs=1e-9)
        assert one["minus_twin"] == pytest.approx(one["eval_exact_nll"] - twin, abs=1e-6)
        assert one["eval_exact_ppl"] == pytest.approx(math.exp(one["eval_exact_nll"]))
        assert one["eval_exact_bpb"] == pytest.approx(one["eval_exact_nll"] / math.log(2))  # a byte is a token
        assert (one["forwards"], one["scored_tokens"]) == (8 * 32, 8 * 32)
    assert len({one["eval_exact_nll"] for one in record["exact"].values()}) == 3


def test_the_log_keeps_it_and_every_page_shows_it(hf, twins, tmp_path):
    assert hf("eval", twins / "mdlm", "--exact", "--tokens-per-step", "4").code == 0
    assert hf("eval", twins / "mdlm", "--exact", "--exact-order", "margin", "--block-length", "8").code == 0
    found = exact_numbers(load_run(twins / "mdlm"))
    assert list(found) == ["confidence x4", "margin in 8"]
    assert found["confidence x4"].forwards == 8 * 8  # 32 / 4 steps a block
    runs = [load_run(twins / name) for name in ("mdlm", "ar")]
    text, markdown = compare_runs(runs).to_text(200), compare_runs(runs).to_markdown()
    assert hf("report", twins / "mdlm", twins / "ar", "--output", "page.html").code == 0
    for page in (text, markdown, Path("page.html").read_text()):
        assert "confidence x4" in page
        assert f"{found['margin in 8'].eval_exact_nll:.4f}" in page
    assert f"{runs[0].best_evaluation.nll:.4f}" in text.split("Exact likelihoods:")[0]  # never in its place


def test_a_budget_takes_the_first_blocks_that_fit_and_says_how_many(hf, trained):
    result = hf("eval", trained, "--exact", "--exact-budget", "100", "--json")
    assert result.code == 0, result.err
    assert "the first 3 of 8 blocks fit into 100 forwards" in result.err
    one = json.loads(result.out)["exact"]["confidence"]
    assert (one["blocks"], one["forwards"]) == (3, 96)
    few = hf("eval", trained, "--exact", "--exact-budget", "30")
    assert few.code == 2
    assert "less than the 32 forwards of the first block" in few.err


@pytest.mark.parametrize(("asked", "scored"), [("3", 3), ("64", 8)])  # there are 8
def test_compare_scores_the_first_blocks_of_the_masked_diffusion_model_once(hf, tiny, asked, scored):
    flags = [*tiny, "--max-steps", "6", "--output-dir", "both", "--exact", "--exact-blocks", asked]
    first = hf("compare", *flags)
    assert first.code == 0, first.err
    found = exact_numbers(load_run("both/mdlm"))
    assert list(found) == ["left_to_right", "confidence", "margin", "entropy"]
    assert {one.blocks for one in found.values()} == {scored}
    assert "Exact likelihoods:" in first.out
    assert f"{found['margin'].eval_exact_nll:.4f}" in first.out
    measured = len(load_run("both/mdlm").measurements)
    assert hf("compare", *flags).code == 0
    assert len(load_run("both/mdlm").measurements) == measured


@pytest.mark.parametrize(
    "flags", [["--dtype", "bfloat16"], ["--block-size", "17"], ["--split", "train"], ["--dataset", "python-docs"]]
)
def test_numbers_of_other_text_or_in_other_numbers_are_not_kept_as_the_run_s(hf, trained, flags):
    result = hf("eval", trained, "--exact", "--exact-order", "left_to_right", "--exact-budget", "64", *flags, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["exact"]["left_to_right"]["eval_exact_nll"] > 0
    assert exact_numbers(load_run(trained)) == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--exact", "--temperature", "0.7"], "temperature 1"),
        (["--exact", "--top-p", "0.9"], "truncation"),
        (["--exact", "--repetition-penalty", "1.2"], "penalties"),
        (["--exact", "--generation"], "exclude each other"),
        (["--exact-order", "margin"], "add --exact"),
        (["--exact", "--exact-order", "low_confidence"], "tokens that were drawn"),
        (["--exact", "--exact-order", "oracle"], "out of scope"),
        (["--exact", "--tokens-per-step", "confidence_threshold:2"], "threshold must be between 0 and 1"),
    ],
)
def test_what_has_the_likelihood_of_another_model_is_refused(hf, trained, flags, words):
    result = hf("eval", trained, *flags)
    assert (result.code, result.out) == (2, "")
    assert words in result.err


def test_a_causal_model_is_exact_already(hf, trained_ar):
    result = hf("eval", trained_ar, "--exact")
    assert result.code == 2
    assert "exact already" in result.err
