from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run

from hf_difflm.errors import UserError
from hf_difflm.runs import compare_runs, differences
from hf_difflm.runs.comparing.fairness import NOT_TOLD
from hf_difflm.runs.comparing.table import labels
from hf_difflm.runs.journal.tables import count, number, with_error


@pytest.fixture
def pair(write_run):
    shared = {"data": {"fingerprint": "f", "source_nll": 1.5}, "model": {"parameters": 1234567}}
    config = {"learning_rate": 1e-3, "output_dir": "a", "objective": "mdlm", "seed": 1}
    first = write_run("mine", objective="mdlm", bound="nelbo", config=config, **shared)
    second = write_run(
        "twin", objective="ar", bound="exact", config={**config, "output_dir": "b", "objective": "ar"}, **shared
    )
    return first, second


def test_the_row_quotes_the_best_evaluation_with_its_step_and_bound(pair):
    row, twin = compare_runs(pair).rows
    best = pair[0].best_evaluation
    assert (row.run, row.objective, row.parameters, row.bound) == ("mine", "mdlm", 1234567, "nelbo")
    assert (row.eval_nll, row.eval_nll_stderr, row.eval_bpb) == (best.nll, 0.01, 3.0)
    assert (row.best_step, row.tokens_seen, row.eval_accuracy) == (20, 1000, None)
    assert row.tokens_per_sec == pytest.approx(1000.0)
    assert twin.bound == "exact"


def test_a_fair_pair_has_no_differences_and_says_so(pair):
    comparison = compare_runs(pair)
    assert comparison.differences == {}
    assert comparison.source_nll == 1.5
    for text in (comparison.to_text(), comparison.to_markdown()):
        assert "differ in their objective only" in text
        assert "1.5000 nats/token" in text


def test_every_setting_data_property_and_size_that_differs_is_named(write_run):
    one = write_run(
        "one",
        config={"lr": 1, "same": 2, "only": 3, "run_name": "x"},
        data={"fingerprint": "a"},
        model={"parameters": 5},
    )
    two = write_run(
        "two", config={"lr": 2, "same": 2, "run_name": "y"}, data={"fingerprint": "b"}, model={"parameters": 6}
    )
    expected = {"lr": [1, 2], "only": [3, None], "data.fingerprint": ["a", "b"], "model.parameters": [5, 6]}
    assert differences([one, two]) == expected
    text = compare_runs([one, two]).to_text()
    assert "lr: 1 / 2" in text
    assert "only: 3 / not set" in text


def test_tables_have_one_line_a_run_or_one_column_a_run_where_the_terminal_is_narrow(pair):
    wide = compare_runs(pair).to_text(width=180)
    narrow = compare_runs(pair).to_text(width=80)
    assert any(line.split()[:1] == ["mine"] and "± 0.0100" in line for line in wide.splitlines())
    assert any(line.split() == ["run", "mine", "twin"] for line in narrow.splitlines())
    assert max(map(len, narrow.splitlines()[:13])) <= 80
    assert "\x1b" not in wide


def test_a_run_without_numbers_prints_dashes(write_run):
    text = compare_runs([write_run("bare", steps=0)]).to_text(160)
    (line,) = [line for line in text.splitlines() if line.split()[:1] == ["bare"]]
    assert line.split()[1:] == ["-"] * 10


def test_markup_and_table_signs_in_names_are_only_text(write_run):
    comparison = compare_runs([write_run("[red]a|b"), write_run("plain")])
    assert "[red]a|b" in comparison.to_text(160)
    assert "[red]a\\|b" in comparison.to_markdown()


def test_runs_of_one_name_in_folders_of_one_name_are_told_apart_by_the_folders_above():
    runs = [make_run("same") for _ in range(3)]
    for run, place in zip(runs, ("a/x", "b/x", "b/y"), strict=True):
        run.path = Path("somewhere", place, "demo", "journal.jsonl")
    assert labels(runs) == ["same (a/x/demo)", "same (b/x/demo)", "same (b/y/demo)"]


def test_runs_of_one_name_get_distinct_labels(write_run):
    runs = [write_run("same"), write_run("same"), write_run("other")]
    assert len(set(labels(runs))) == 3
    assert labels(runs)[2] == "other"


def test_comparing_nothing_is_refused():
    with pytest.raises(UserError, match="no run to compare"):
        compare_runs([])


@given(st.none() | st.floats())
def test_numbers_print_short_and_unknown_ones_as_a_dash(value):
    unknown = value is None or not math.isfinite(value)
    for text in (number(value, 4), count(value), with_error(value, None)):
        assert (text == "-") == unknown
    assert with_error(1.25, 0.5) == "1.2500 ± 0.5000"
    assert with_error(1.25, math.nan) == "1.2500"
    assert with_error(None, 0.5) == "-"


def test_what_only_masked_diffusion_has_is_no_difference_to_its_twin_and_what_it_minimised_is_said():
    own = make_run("mine", count_law="bell", loss_weight="flat")
    own.header.metadata["train_objective"] = "p0+bell(0.4, 0.2, 0.1)+flat"
    twin = make_run("twin", objective="ar", bound="exact", count_law="uniform", loss_weight="nelbo")
    comparison = compare_runs([own, twin])
    assert comparison.differences == {}
    assert "mine minimised p0+bell(0.4, 0.2, 0.1)+flat, which is its own part" in comparison.to_text()
    assert differences([own, make_run("other", count_law="uniform", loss_weight="flat")]) == {
        "count_law": ["bell", "uniform"]
    }


def test_what_no_log_tells_is_not_said_to_be_equal():
    first, second = make_run("one"), make_run("two", objective="ar", bound="exact")
    for run in (first, second):
        run.header.data = {}
    text = compare_runs([first, second]).to_text(200)
    assert "the runs differ in their objective; every other setting and the size are equal." in text
    assert "data may differ: the log of one, two does not tell them." in text
    second.header.model = {}
    text = compare_runs([first, second]).to_text(200)
    assert "every other setting is equal." in text
    assert "data and size may differ: the log of two does not tell them." in text
    first.header.data, second.header.data = {"fingerprint": "f"}, {"train_fingerprint": "g", "eval_fingerprint": "g"}
    text = compare_runs([first, second]).to_text(200)
    assert "data may differ: the logs tell it in ways that cannot be compared." in text
    assert "the data and" not in text


def test_runs_of_one_objective_are_not_said_to_differ_in_it(write_run):
    text = compare_runs([make_run("one"), make_run("two")]).to_text(200)
    assert "Fairness: every setting, the data and the size are equal." in text
    assert "Fairness: these differ:\n- width: 1 / 2" in compare_runs(
        [make_run("a", width=1), make_run("b", width=2)]
    ).to_text(200)


def test_a_setting_that_a_program_does_not_know_is_counted_and_not_called_unset(write_run):
    ours = [make_run("a", own=1, **{f"ours_{place}": False for place in range(40)}), make_run("b", own=2)]
    state = write_run("state", config={"learning_rate": 2.0, "max_steps": 3})
    silent = write_run("silent")
    comparison = compare_runs([ours[0], state, silent])
    assert comparison.differences == {"learning_rate": [1e-3, 2.0, NOT_TOLD]}
    text = comparison.to_text(200)
    assert "not set" not in text
    assert "besides the objective" not in text, "nobody knows that of the others"
    assert "44 settings are told by some of the logs alone and could not be compared." in text
    # What differs among those that know it is there, what only one of ours has is unset in the other.
    found = compare_runs([*ours, state]).differences
    assert (found["own"], found["ours_3"]) == ([1, 2, NOT_TOLD], [False, None, NOT_TOLD])
