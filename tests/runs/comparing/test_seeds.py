from __future__ import annotations

import dataclasses
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import evaluated, make_run

from hf_difflm.errors import UserError
from hf_difflm.runs import compare_runs
from hf_difflm.runs.comparing.pairing import paired_difference
from hf_difflm.runs.comparing.seeds import mean_and_error, seed_groups
from hf_difflm.runs.comparing.table import labels, same_name_warnings


def _both(seeds=(1, 2, 3), folder=None):
    mdlm = [make_run(f"demo-mdlm-seed{seed}", seed=seed, final=2 + seed / 10) for seed in seeds]
    ar = [
        make_run(f"demo-ar-seed{seed}", seed=seed, objective="ar", bound="exact", final=1.5 + seed / 10)
        for seed in seeds
    ]
    return mdlm + ar if folder is None else [evaluated(run, folder / run.name) for run in mdlm + ar]


def test_runs_that_differ_in_their_seed_alone_are_one_group_with_their_common_name():
    runs = _both()
    groups = seed_groups(runs, labels(runs))
    assert [(group.label, group.seeds, group.places) for group in groups] == [
        ("demo-mdlm", (1, 2, 3), (0, 1, 2)),
        ("demo-ar", (1, 2, 3), (3, 4, 5)),
    ]


@pytest.mark.parametrize(
    "others",
    [{"seed": 1}, {"seed": 2, "learning_rate": 2e-3}, {"seed": None}],
    ids=["the same seed twice", "another learning rate", "an unknown seed"],
)
def test_what_is_no_second_sample_of_a_configuration_stays_alone(others):
    runs = [make_run("a", seed=1), make_run("b", **others)]
    assert [group.label for group in seed_groups(runs, labels(runs))] == ["a", "b"]


def test_logs_without_settings_are_never_taken_for_seeds_of_one_configuration():
    runs = [make_run("a"), make_run("b")]
    runs = [dataclasses.replace(run, headers=[dataclasses.replace(run.header, config={})]) for run in runs]
    assert len(seed_groups(runs, labels(runs))) == 2
    notes = compare_runs(runs).notes()
    assert any("cannot be checked for a, b" in note for note in notes)
    assert not any("every other setting" in note for note in notes)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_mean_and_error_are_those_of_the_statistics_module(values):
    mean, error = mean_and_error([*values, None, math.nan])
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-6)


def test_one_value_has_no_error_and_none_has_no_mean():
    assert mean_and_error([2.0]) == (2.0, None)
    assert mean_and_error([None]) == (None, None)


def test_the_comparison_has_a_line_a_configuration_and_pairs_them_by_seed(tmp_path):
    runs = _both(folder=tmp_path)
    comparison = compare_runs(runs)
    mdlm, _ = comparison.seed_rows
    assert (mdlm.configuration, mdlm.seeds, mdlm.bound) == ("demo-mdlm", [1, 2, 3], "nelbo")
    best = [run.best_evaluation.nll for run in runs[:3]]
    assert mdlm.eval_nll == pytest.approx(statistics.fmean(best))
    assert mdlm.eval_nll_stderr == pytest.approx(statistics.stdev(best) / math.sqrt(3))
    # The sides differ by the same 0.5 at each seed, so the paired difference has no error though both sides do.
    assert comparison.paired.nats == pytest.approx(0.5)
    assert comparison.paired.stderr == pytest.approx(0.0, abs=1e-9)
    assert (comparison.paired.units, comparison.paired.unit) == (3, "seeds")
    assert "seed" not in comparison.differences
    for text in (comparison.to_text(120), comparison.to_markdown()):
        assert "Mean over seeds" in text
        assert "paired over 3 seeds" in text


@pytest.mark.borders
def test_seeds_whose_runs_do_not_say_what_they_scored_are_not_paired(tmp_path):
    comparison = compare_runs(_both())
    assert comparison.paired.nats == pytest.approx(0.5)
    assert comparison.paired.stderr > 0.05  # that of two means: paired it is 0
    assert "not paired: what text they scored their logs do not say" in comparison.to_text(160)
    runs = _both(folder=tmp_path)
    evaluated(runs[1], tmp_path / "demo-mdlm-seed2", texts=["other", "b", "c"])
    comparison = compare_runs(runs)
    assert comparison.paired.nats is None
    assert "the runs of seed 2 were evaluated on different units" in comparison.to_markdown()


def test_seeds_that_only_one_side_has_are_a_difference():
    runs = [*_both((1, 2))[:2], make_run("other", seed=3, objective="ar")]
    assert compare_runs(runs).differences["seed"] == [1, 2, 3]


def test_runs_of_one_name_are_told_apart_by_seed_and_said_so():
    runs = [make_run("same", seed=1), make_run("same", seed=2), make_run("other", seed=1)]
    assert labels(runs) == ["same (seed 1)", "same (seed 2)", "other"]
    (warning,) = same_name_warnings(runs)
    assert warning == "2 runs are named 'same'; they are shown as same (seed 1), same (seed 2)"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [(["a"], "there is 1 name .a. for 2 runs; give one name for each run"), (["a", "a"], "'a' is given twice")],
)
def test_names_that_do_not_fit_are_refused(names, sentence):
    with pytest.raises(UserError, match=sentence):
        labels([make_run("x"), make_run("y")], names)


def test_two_runs_are_paired_by_document_in_text_and_markdown_under_the_names_given(tmp_path):
    runs = []
    for name, objective, extra in (("one", "mdlm", 0.5), ("two", "ar", 0.0)):
        nll = [2.0 + extra + place / 100 * extra for place in range(3)]
        run = make_run(name, objective=objective, bound="nelbo" if objective == "mdlm" else "exact")
        runs.append(evaluated(run, tmp_path / name, nll=nll))
    comparison = compare_runs(runs)
    assert "mdlm - ar: +0.5" in comparison.to_text(100)
    assert "paired over 3 documents): the number of mdlm is an upper bound" in comparison.to_markdown()
    assert str(compare_runs(runs, ["X", "Y"]).paired).startswith("X - Y: ")
    # The document of another run in the same folder has no right to the file that lies there.
    assert paired_difference(runs[0], dataclasses.replace(runs[1], path=runs[0].path)) is None


@pytest.mark.parametrize(
    "content", ["{", '{"unit": "documents"}', '{"unit": "x", "ids": [1], "tokens": [1, 2], "nll": [1]}']
)
def test_a_damaged_evaluation_file_is_a_warning_and_no_crash(tmp_path, caplog, content):
    runs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best_evaluation.json").write_text(content)
        runs.append(dataclasses.replace(make_run(name), path=tmp_path / name / "journal.jsonl"))
    assert compare_runs(runs).paired is None
    assert "left out of the comparison" in caplog.text
