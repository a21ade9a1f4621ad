"""``eval``: the numbers of the run itself, and those on other data."""

from __future__ import annotations

import json
import shutil

import pytest

from hf_difflm.runs import load_run


def _refuse(word):
    raise ValueError(f"{word} is no JSON")


@pytest.fixture
def numbers(hf):
    """Evaluate and return the JSON, read strictly; it must be alone on stdout."""

    def call(*args):
        result = hf("eval", *args, "--json")
        assert result.code == 0, result.err
        return json.loads(result.out, parse_constant=_refuse)

    return call


@pytest.mark.parametrize("kind", ["trained", "trained_ar"])
def test_a_run_gives_the_numbers_it_logged_for_its_best_step(numbers, request, kind):
    run = request.getfixturevalue(kind)
    logged = load_run(run).best_evaluation
    found = numbers(run)
    assert found["iter"] == logged.iter
    for name in ("eval_nll", "eval_nll_stderr", "eval_nll_data_stderr", "eval_bpb", "eval_ppl", "eval_accuracy"):
        assert found[name] == pytest.approx(logged.metrics[name], abs=1e-6, rel=1e-6)
    assert found["bound"] == ("nelbo" if kind == "trained" else "exact")
    assert found["source_nll"] == pytest.approx(load_run(run).source_nll)


def test_run_best_folder_and_the_checkpoint_of_that_step_are_the_same_model(numbers, trained):
    found = [numbers(path) for path in (trained, trained / "best", trained / "checkpoint-6")]
    assert {entry["eval_nll"] for entry in found} == {found[0]["eval_nll"]}
    assert {entry["iter"] for entry in found} == {6}
    assert numbers(trained / "checkpoint-3")["eval_nll"] == load_run(trained).evaluations[0].nll


def test_the_averaged_weights_of_a_checkpoint_are_evaluated(hf, numbers, tiny):
    assert hf("train", *tiny, "--ema-decay", "0.9", "--max-steps", "3", "--output-dir", "run").code == 0
    logged = load_run("run").best_evaluation.nll
    assert numbers("run/checkpoint-3")["eval_nll"] == pytest.approx(logged, abs=1e-6)


def test_an_exact_likelihood_has_no_monte_carlo_error_and_needs_one_forward_a_sequence(numbers, trained_ar):
    found = numbers(trained_ar, "--eval-replicates", "5")
    assert found["eval_nll_stderr"] == 0
    assert found["forwards"] == 8


def test_replicates_and_seed_change_the_estimate_within_its_error(numbers, trained):
    few, other = (
        numbers(trained, "--eval-replicates", "4"),
        numbers(trained, "--eval-replicates", "4", "--eval-seed", "1"),
    )
    assert few["forwards"] == 4 * 8
    assert few["eval_nll"] != other["eval_nll"]
    assert few["eval_nll"] == pytest.approx(
        other["eval_nll"], abs=6 * (few["eval_nll_stderr"] + other["eval_nll_stderr"])
    )


def test_another_split_and_another_data_set(numbers, trained, tmp_path):
    own = numbers(trained)
    test = numbers(trained, "--split", "test")
    assert test["eval_split"] == "test"
    assert test["eval_nll"] != own["eval_nll"]
    assert numbers(trained, "--split", "validation")["eval_nll"] == own["eval_nll"]
    (tmp_path / "book.txt").write_text("It is a truth universally acknowledged. " * 40)
    book = numbers(trained, "--dataset", "book.txt", "--eval-fraction", "0.3")
    assert book["dataset"] == "book.txt"
    assert book["source_nll"] is None


def test_a_model_folder_without_a_log_needs_a_data_set(hf, numbers, trained, tmp_path):
    shutil.copytree(trained / "best", tmp_path / "model")
    assert "add --dataset" in hf("eval", "model").err
    flags = ["--dataset", "markov", "--block-size", "33", "--max-eval-blocks", "8", "--eval-replicates", "2"]
    assert numbers("model", *flags)["eval_nll"] == numbers(trained)["eval_nll"]


def test_the_table_names_the_bound_and_both_errors(hf, trained):
    out = hf("eval", trained).out
    assert "nelbo: an upper bound" in out
    assert "Monte Carlo, 2 draws" in out
    assert "eval_nll_data_stderr" in out
    assert "bits/byte" in out
