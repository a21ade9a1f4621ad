"""What a difference of two numbers says: every cell of (exact, upper bound) x (which is lower) x (resolved or not)."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from made_runs import evaluated, make_run

from hf_difflm.runs import compare_runs, write_html_report, write_report
from hf_difflm.runs.comparing.ablation import AblationTable, Entry
from hf_difflm.runs.comparing.pairing import PairedDifference
from hf_difflm.runs.comparing.verdicts import half_interval, kind_of, verdict

CELLS = list(itertools.product(["exact", "nelbo"], ["exact", "nelbo"], [True, False], [True, False]))


@pytest.mark.borders
@pytest.mark.parametrize(("first", "second", "first_lower", "resolved"), CELLS)
def test_a_cell_says_no_more_than_what_holds_for_every_pair_of_models_behind_the_numbers(
    first, second, first_lower, resolved
):
    """Held against draws: true values that the numbers allow, each with the gap that its bound leaves."""
    difference, half = (-0.5 if first_lower else 0.5), (0.1 if resolved else 0.6)
    said = verdict(("A", "B"), (first, second), difference, half)
    gaps = np.random.default_rng(0).exponential(0.5, (2, 1000)) * [[first == "nelbo"], [second == "nelbo"]]
    true = difference - gaps[0] + gaps[1]  # t_A - t_B of models with these numbers, the interval aside
    low, high = ("A", "B") if first_lower else ("B", "A")
    assert said.resolved == resolved
    assert said.sentence.startswith("not resolved") == (not resolved)
    assert (said.short == "not resolved") == (not resolved)
    assert "no difference" not in said.sentence
    if not resolved:
        assert "0.6000" in said.sentence
        return
    certain = (true < 0).all() if first_lower else (true > 0).all()
    assert (f"{low} has the lower nll" in said.sentence) == certain
    assert (said.short.split(",")[0] in ("better", "worse")) == certain
    assert ("at least this much" in said.sentence) == (certain and (abs(true) > abs(difference)).any())
    assert ("may be closer" in said.sentence or "do not settle" in said.sentence) == (not certain)
    assert ("better" in said.short) == (first_lower and (certain or first == second))
    if not certain and first != second:
        assert f"or {high} the better one" in said.sentence


def test_the_sentences_of_all_cells_differ():
    said = [verdict(("A", "B"), (a, b), -0.5 if low else 0.5, 0.1 if sure else 0.6) for a, b, low, sure in CELLS]
    # Of two unresolved exact numbers, or two bounds, it does not matter which is lower.
    assert len({one.sentence for one in said}) == len(CELLS) - 2


@pytest.mark.parametrize("bounds", [(None, None), (None, "exact"), ("nelbo", None), ("odd", "exact")])
def test_a_log_that_does_not_say_what_its_number_is_gets_no_claim(bounds):
    said = verdict(("A", "B"), bounds, -0.5, 0.1)
    assert said.sentence.startswith("A has the lower number; whether")
    assert said.short == "lower number"


@pytest.mark.parametrize(("difference", "half"), [(0.0, 0.0), (0.1, 0.1), (-0.43, 1.71)])
def test_an_interval_that_holds_zero_resolves_nothing(difference, half):
    assert not verdict(("A", "B"), ("exact", "exact"), difference, half).resolved


def test_every_kind_of_nelbo_is_a_bound_and_the_interval_is_students():
    assert [kind_of(bound) for bound in ("exact", "nelbo", "nelbo_token_value", None)] == [
        "exact",
        "upper bound",
        "upper bound",
        "untold",
    ]
    assert half_interval(1.0, 3) == pytest.approx(4.302652729911275)
    assert half_interval(1.0, 1) is None


@pytest.mark.borders
def test_a_bound_below_an_exact_number_is_at_least_that_far_in_text_markdown_and_page(tmp_path):
    runs = []
    for objective, bound, nll in (("mdlm", "nelbo", 1.0), ("ar", "exact", 2.0)):
        for seed in (1, 2, 3):
            runs.append(make_run(f"{objective}-seed{seed}", objective=objective, bound=bound, final=nll, seed=seed))
            runs[-1].evaluations[-1].metrics["eval_nll"] += seed / 100 * (objective == "ar")
            runs[-1] = evaluated(runs[-1], tmp_path / runs[-1].name)
    comparison = compare_runs(runs)
    sentence = "has the lower nll, by at least this much"
    page, *_ = write_report(runs, tmp_path / "page.md")
    interactive = write_html_report(runs, tmp_path / "page.html")
    for text in (comparison.to_text(160), comparison.to_markdown(), page.read_text(), interactive.read_text()):
        assert sentence in text
        assert "closer than this" not in text


@pytest.mark.borders
def test_an_ablation_knows_bounds(tmp_path):
    def entry(name, finals, bound="nelbo"):
        objective = "ar" if bound == "exact" else "mdlm"
        runs = {
            seed: make_run(f"{name}-{seed}", final=final, seed=seed, bound=bound, objective=objective)
            for seed, final in enumerate(finals)
        }
        return Entry(name, {seed: evaluated(run, tmp_path / run.name) for seed, run in runs.items()})

    variants = {
        "exact below": ([1.0, 1.1, 1.21], "exact", "below a bound: open"),
        "exact above": ([3.0, 3.1, 3.21], "exact", "worse, at least by this"),
        "bound below": ([1.0, 1.1, 1.21], "nelbo", "better bound"),
        "shaky": ([1.5, 2.6, 2.2], "nelbo", "not resolved"),
    }
    entries = [entry("base", [2.0, 2.1, 2.2]), *(entry(name, *given[:2]) for name, given in variants.items())]
    table = AblationTable(entries, "base")
    assert [row["verdict"] for row in table.data()[1:]] == [given[2] for given in variants.values()]
    assert [row["bound"] for row in table.data()] == ["nelbo", "exact", "exact", "nelbo", "nelbo"]
    for text in (table.to_text(200), table.to_markdown()):
        assert "| bound" in text or "  bound" in text
        assert "- exact below - base: -0.99" in text
        assert "the number of base is an upper bound and that of exact below is exact" in text
        assert "no difference" not in text


@pytest.mark.borders
def test_seeds_of_one_configuration_are_named_among_the_differences():
    comparison = compare_runs([make_run("a", seed=1), make_run("b", seed=2)])
    assert comparison.differences == {"seed": [1, 2]}
    assert "- seed: 1 / 2" in comparison.notes()


@pytest.mark.borders
def test_two_accuracies_of_two_tasks_are_two_columns(tmp_path):
    runs = [make_run("mdlm"), make_run("ar", objective="ar", bound="exact")]
    comparison = compare_runs(runs)
    interactive = write_html_report(runs, tmp_path / "page.html")
    for text in (comparison.to_markdown(), interactive.read_text()):
        assert "masked-token accuracy" in text
        assert "next-token accuracy" in text
    first, second = (line for line in comparison.to_markdown().splitlines() if line.startswith(("| mdlm", "| ar")))
    cells = [[cell.strip() for cell in line.split("|")] for line in (first, second)]
    assert [row.index("0.5000") for row in cells] == [9, 10]
    alone = compare_runs([runs[0], dataclasses.replace(runs[0])], ["x", "y"]).to_markdown()
    assert "| accuracy |" in alone


def test_a_paired_difference_is_a_sentence_with_its_verdict():
    paired = PairedDifference("mdlm", "ar", 0.5, 0.01, 40, "blocks", ("nelbo", "exact"))
    assert str(paired) == (
        "mdlm - ar: +0.5000 ± 0.0100 nats/token (best evaluations, paired over 40 blocks): the number of mdlm is an upper "
        "bound and that of ar is exact, so the models may be closer than this, or mdlm the better one."
    )
