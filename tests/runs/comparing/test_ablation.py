"""The table of an ablation: intervals, verdicts, and no number without finished runs."""

from __future__ import annotations

import json
import math

import pytest
from made_runs import evaluated, make_run

from hf_difflm.runs.comparing.ablation import AblationTable, Entry, interval
from hf_difflm.runs.comparing.units import TEST_FILE
from hf_difflm.runs.journal.schema import EventRecord, MeasurementRecord


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _entry(name, finals, ending="completed", weights=None, **evaluation):
    runs = {}
    for seed, final in enumerate(finals, start=1):
        run = None if final is None else make_run(f"{name}-seed{seed}", final=final, seed=seed)
        runs[seed] = run and evaluated(run, run.path.parent, **evaluation)
        if final is not None and ending != "completed":
            runs[seed].events[-1] = EventRecord(event=ending, iter=50)
    return Entry(name, runs, weights=weights)


def _table(*entries):
    return AblationTable(entries, baseline="base")


def test_the_interval_is_students_t():
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert found.half == pytest.approx(4.302652729911275 / math.sqrt(3))  # quantile 0.975, 2 degrees of freedom
    assert interval([1.0]).half is None
    assert interval([]) is None


def test_the_verdict_is_of_the_difference_paired_by_seed_and_not_of_the_two_means():
    base = _entry("base", [2.0, 3.0, 4.0])
    better = _entry("better", [1.9, 2.91, 3.89])  # the seeds differ far more than the variants
    shaky = _entry("shaky", [1.5, 3.4, 4.0])
    worse = _entry("worse", [2.1, 3.11, 4.09])
    table = _table(base, better, shaky, worse)
    verdicts = [table.verdict(entry) for entry in table.entries]
    assert verdicts == ["baseline", "better bound", "not resolved", "worse bound"]
    assert table.difference(better).mean == pytest.approx(-0.1, abs=1e-6)


def test_a_column_has_the_learning_rates_where_variants_differ_in_them():
    def entry(name, final, **config):
        run = make_run(f"{name}-seed1", final=final, seed=1, **config)
        return Entry(name, {1: evaluated(run, run.path.parent), 2: None})

    base = entry("base", 2.0, optim="adamw_torch", learning_rate=0.002)
    same = entry("same", 2.1, optim="adamw_torch", learning_rate=0.002)
    muon = entry("muon", 1.9, optim="muon", learning_rate=0.015, adamw_learning_rate=0.008)
    alike = entry("alike", 1.9, optim="muon", learning_rate=0.015)
    assert "learning rate" not in _table(base, same).to_text(200)
    assert "learning rate" not in _table(base, Entry("none", {1: None})).to_text(200)
    table = _table(base, muon, alike)
    assert table.to_markdown().splitlines()[0].startswith("| variant | learning rate | seeds |")
    cells = [line.split(" | ")[1] for line in table.to_markdown().splitlines()[2:5]]
    assert cells == ["adamw_torch 0.002", "muon 0.015, AdamW 0.008", "muon 0.015, AdamW 0.015"]
    rows = [(row["optim"], row["learning_rate"], row["adamw_learning_rate"]) for row in table.data()]
    assert rows == [("adamw_torch", 0.002, None), ("muon", 0.015, 0.008), ("muon", 0.015, 0.015)]


@pytest.mark.borders
def test_runs_that_scored_other_text_are_not_compared_and_those_that_do_not_say_are_not_paired():
    base = _entry("base", [2.0, 3.0, 4.0])
    other = _entry("other", [1.9, 2.91, 3.89], texts=["a", "b", "x"])
    untold = _entry("untold", [1.9, 2.91, 3.89], known=False)
    table = _table(base, other, untold)
    assert (table.difference(other), table.verdict(other)) == (None, "other data: not comparable")
    # The seeds differ far more than the variants, which only a pairing takes out.
    assert table.difference(untold).mean == pytest.approx(-0.1, abs=1e-6)
    assert table.difference(untold).half > 2
    assert table.verdict(untold) == "not resolved (unpaired)"
    assert "not paired: what text their runs scored the logs do not say" in table.to_markdown()
    assert [row["paired"] for row in table.data()] == [True, False, False]


def test_a_variant_without_all_its_finished_runs_has_no_number():
    entries = [_entry("half", [1.0, None, 1.0]), _entry("stopped", [1.0, 1.0, 1.0], ending="interrupted")]
    table = _table(_entry("base", [2.0, 2.0, 2.0]), *entries)
    rows = {row["variant"]: row for row in table.data()}
    assert rows["half"]["verdict"] == "not finished (2 of 3 runs)"
    assert rows["stopped"]["verdict"] == "not finished (0 of 3 runs)"
    for name in ("half", "stopped"):
        assert [rows[name][key] for key in ("eval_nll", "difference", "tokens_per_sec")] == [None] * 3
    lines = [line for line in table.to_markdown().splitlines() if line.startswith(("| half", "| stopped"))]
    assert len(lines) == 2
    assert not any("1.0" in line for line in lines)
    json.dumps(table.data(), allow_nan=False)


def test_without_a_finished_baseline_or_a_second_seed_nothing_is_claimed():
    unfinished = _table(_entry("base", [2.0, None]), other := _entry("other", [1.0, 1.0]))
    assert unfinished.verdict(other) == "the baseline is not finished"
    alone = _table(_entry("base", [2.0]), single := _entry("other", [1.0]))
    assert alone.verdict(single) == "one seed: cannot tell"


def test_runs_on_other_data_are_not_compared():
    other = _entry("other", [1.0, 1.0])
    for run in other.runs.values():
        run.header.data["fingerprint"] = "another"
    table = _table(_entry("base", [2.0, 2.0]), other)
    assert table.verdict(other) == "other data: not comparable"
    assert table.difference(other) is None


def test_variants_that_share_their_weights_say_so_and_have_their_own_texts():
    base = _entry("base", [2.0, 2.1], weights="base-seed1")
    drawn = Entry(
        "sampler", base.runs, {1: {"unigram_entropy": 2.0}, 2: {"unigram_entropy": 3.0}}, weights="base-seed1"
    )
    table = _table(base, drawn)
    assert table.verdict(drawn) == "same weights"
    assert "2.500" in next(line for line in table.to_text(200).splitlines() if "sampler" in line)


def _tested(entry, finals):
    """The runs of an entry with an nll on the test, of the same units in all."""
    for run, nll in zip(entry.runs.values(), finals, strict=True):
        run.measurements.append(
            MeasurementRecord(iter=run.best_evaluation.iter, source="test", metrics={"test/nll": nll})
        )
        file = run.path.parent / "best_evaluation.json"
        (run.path.parent / TEST_FILE).write_text(file.read_text().replace('"a', '"test a'))
    return entry


@pytest.mark.borders
def test_the_test_is_quoted_where_all_runs_have_one_and_the_table_says_so():
    base = _tested(_entry("base", [2.0, 3.0, 4.0]), [2.5, 3.5, 4.5])
    better = _tested(_entry("better", [2.1, 3.1, 4.1]), [2.4, 3.41, 4.39])  # worse on the set that chose the weights
    table = _table(base, better)
    assert table.verdict(better) == "better bound"
    assert table.difference(better).mean == pytest.approx(-0.1, abs=1e-6)
    assert [row["split"] for row in table.data()] == ["test", "test"]
    assert table.data()[0]["eval_nll"]["mean"] == pytest.approx(3.5)
    for said in (table.to_text(200), table.to_markdown()):
        assert "The numbers are of the test" in said


@pytest.mark.borders
def test_a_run_without_a_test_among_others_has_all_quote_their_evaluation():
    base = _tested(_entry("base", [2.0, 3.0]), [2.5, 3.5])
    other = _entry("other", [2.1, 3.1])
    table = _table(base, other)
    assert table.data()[0]["eval_nll"]["mean"] == pytest.approx(2.5, rel=1e-2)
    assert table.data()[0]["split"] == "eval"
    assert "there is no test of other-seed1, other-seed2" in table.to_markdown()
