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
    assert found["eval_forwards"] == 8


def test_replicates_and_seed_change_the_estimate_within_its_error(numbers, trained):
    few, other = (
        numbers(trained, "--eval-replicates", "4"),
        numbers(trained, "--eval-replicates", "4", "--eval-seed", "1"),
    )
    assert few["eval_forwards"] == 4 * 8
    assert few["eval_nll"] != other["eval_nll"]
    assert few["eval_nll"] == pytest.approx(
        other["eval_nll"], abs=6 * (few["eval_nll_stderr"] + other["eval_nll_stderr"])
    )


def test_a_target_ends_at_the_numbers_of_that_many_draws_and_says_what_it_took(numbers, trained):
    few = numbers(trained, "--eval-replicates", "4")
    found = numbers(trained, "--target-stderr", few["eval_nll_stderr"] / 2, "--max-eval-replicates", "40")
    draws = found["eval_replicates"]
    assert 4 < draws <= 40
    assert (found["eval_forwards"], found["target_stderr"]) == (8 * draws, few["eval_nll_stderr"] / 2)
    assert found["eval_nll_stderr"] <= found["target_stderr"] or draws == 40
    assert found | {"target_stderr": None} == numbers(trained, "--eval-replicates", draws)


def test_a_target_that_is_not_reached_is_said(hf, trained):
    result = hf("eval", trained, "--target-stderr", "1e-9", "--max-eval-replicates", "8")
    assert result.code == 0
    assert "after 8 draws, above target_stderr 1e-09; raise --max-eval-replicates" in result.err
    assert "Monte Carlo, 8 draws" in result.out


def test_complementary_pairs_take_two_forwards_a_draw_for_the_same_number(numbers, trained):
    plain, pairs = (numbers(trained, "--eval-replicates", "16", *flags) for flags in ([], ["--eval-pairs"]))
    assert pairs["eval_forwards"] == 2 * plain["eval_forwards"] == 2 * 16 * 8
    error = (plain["eval_nll_stderr"] ** 2 + pairs["eval_nll_stderr"] ** 2) ** 0.5
    assert pairs["eval_nll"] == pytest.approx(plain["eval_nll"], abs=5 * error)
    assert pairs["eval_nll"] != plain["eval_nll"]


def test_an_exact_likelihood_has_reached_every_target(hf, numbers, trained_ar):
    found = numbers(trained_ar, "--target-stderr", "1e-9", "--eval-pairs")
    assert (found["eval_nll_stderr"], found["eval_forwards"]) == (0, 8)
    assert "target_stderr" not in hf("eval", trained_ar, "--target-stderr", "1e-9").err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--target-stderr 0", "target_stderr must be a number above 0, or none, got 0"),
        ("--target-stderr -0.1", "target_stderr must be a number above 0, or none, got -0.1"),
        ("--target-stderr nan", "target_stderr must be a number above 0, or none, got nan"),
        ("--target-stderr 0.1 --max-eval-replicates 3", "max_eval_replicates is 3, fewer than the 4 draws"),
        ("--max-eval-replicates 9", "max_eval_replicates 9 has no use without target_stderr"),
        ("--generation --target-stderr 0.1", "flag --target-stderr is for the likelihood"),
    ],
)
def test_a_target_that_makes_no_sense_is_one_sentence(hf, trained, flags, sentence):
    result = hf("eval", trained, *flags.split())
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err
    assert result.err.count("\n") == 1


def test_a_run_keeps_its_target_and_a_number_of_draws_overrides_it(hf, numbers, tiny):
    flags = ["--target-stderr", "0.004", "--max-eval-replicates", "12", "--max-steps", "3", "--output-dir", "run"]
    assert hf("train", *tiny, *flags).code == 0
    logged = load_run("run").best_evaluation.metrics
    assert 4 <= logged["eval_replicates"] <= 12
    assert logged["eval_forwards"] == 8 * logged["eval_replicates"]
    found = numbers("run")
    assert (found["target_stderr"], found["eval_nll"]) == (0.004, pytest.approx(logged["eval_nll"], abs=1e-6))
    assert found["eval_replicates"] == logged["eval_replicates"]
    assert numbers("run", "--eval-replicates", "3")["eval_replicates"] == 3
    assert numbers("run", "--target-stderr", "none")["eval_replicates"] == 2


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
    assert len([line for line in out.splitlines() if "±" in line]) == 3  # nll, bits per byte, perplexity
    rows = [" ".join(line.strip("│ ").replace("│", " ").split()) for line in out.splitlines()]
    conditions = {"protocol P0 (nelbo)", "draws 2", "a text begins with [BOS]", "chat template not applied"}
    assert conditions <= set(rows)
