"""What is logged of the importance of a text: how it is kept, read back, scaled and told in letters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_runs import make_run

from hf_difflm.objectives.adaptive.curriculum import STAGES
from hf_difflm.runs.dashboard.curriculum_stages import STAGE_NAMES, stage_starts
from hf_difflm.runs.dashboard.importance_map import (
    MOST_CHARACTERS,
    ImportanceMap,
    importance_maps,
    importance_record,
    map_of,
    scale_of,
    visible,
)
from hf_difflm.runs.journal.schema import MeasurementRecord, decode, encode

HOSTILE = ["$x^2$", "<script>", "\x1b[31m", "\ud800", "\u202e", "日本", "\n", "", "\x00"]


def test_a_map_comes_back_from_the_journal_as_it_was():
    values = np.random.default_rng(0).uniform(size=len(HOSTILE))
    record = decode(json.loads(encode(importance_record(7, HOSTILE, values))))
    found = map_of(record)
    assert (found.step, found.tokens) == (7, tuple(HOSTILE))
    assert found.values == pytest.approx(values, abs=5e-4)


def test_the_numbers_are_those_of_the_tokens_that_are_kept():
    tokens = ["ab"] * MOST_CHARACTERS
    values = np.random.default_rng(1).uniform(size=len(tokens))
    record = importance_record(1, tokens, values)
    kept = values[: MOST_CHARACTERS // 2]
    assert len(record.extra["tokens"]) == len(record.extra["importance"]) == len(kept)
    assert record.metrics == pytest.approx(
        {
            "importance_text/mean": np.mean(kept),
            "importance_text/std": np.std(kept),
            "importance_text/min": np.min(kept),
            "importance_text/max": np.max(kept),
        }
    )
    counts = record.histograms["importance_text"]["counts"]
    assert counts == [int(((kept >= low / 20) & (kept < (low + 1) / 20)).sum()) for low in range(20)]


def test_a_single_token_of_any_length_is_kept():
    assert map_of(importance_record(1, ["x" * 5000], [0.5])).tokens == ("x" * 5000,)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"tokens": ["a"]},
        {"tokens": ["a"], "importance": [0.1, 0.2]},
        {"tokens": "a", "importance": [0.1]},
        {"tokens": [1], "importance": [0.1]},
        {"tokens": [], "importance": []},
    ],
)
def test_a_record_of_another_shape_is_no_map(extra):
    run = make_run("odd", 10)
    run.measurements.append(MeasurementRecord(iter=1, source="importance", extra=extra))
    assert importance_maps(run) == []


def test_values_out_of_range_are_limited_and_what_is_no_number_is_unknown():
    values = [-1, 2.0, None, "much", True, float("nan")]
    extra = {"tokens": list("abcdef"), "importance": values}
    found = map_of(MeasurementRecord(iter=1, source="importance", extra=extra))
    assert found.values == (0.0, 1.0, None, None, None, None)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((0.5,), (0.5, 0.7)),
        ((0.31, 0.69), (0.3, 0.7)),
        ((0.3, 0.7), (0.3, 0.7)),
        ((0.0, 1.0), (0.0, 1.0)),
        ((1.0,), (0.8, 1.0)),
        ((0.0,), (0.0, 0.2)),
        ((None,), (0.0, 1.0)),
    ],
)
def test_the_scale_holds_every_value_and_at_least_two_tenths(values, scale):
    found = ImportanceMap(1, ("a",) * len(values), values)
    assert scale_of([found]) == pytest.approx(scale)


def test_a_text_stands_over_the_tenths_of_its_importance():
    found = ImportanceMap(1, ("The", " ", "cat\n", "s"), (0.0, 0.3, 1.0, None))
    assert found.lines(5) == "The c\n00039\nat↵s\n999"


def test_what_is_shown_of_a_token_is_on_one_line_and_obeys_nothing():
    assert visible("a\n\tb") == "a↵→b"
    assert all(visible(token).isprintable() for token in HOSTILE)


def test_the_stages_have_the_names_of_the_curriculum():
    assert STAGE_NAMES == STAGES


def stages(values):
    column = np.array(values, dtype=np.float64)
    return [
        (start.step, start.name)
        for start in stage_starts(make_run("s", len(column), columns={"curriculum_stage": column}))
    ]


def test_stages_begin_where_the_log_says_so():
    assert stages([1, 1, 2, 2, 3]) == [(1, "easy"), (3, "medium"), (5, "hard")]
    assert stages([1, 3, 3]) == [(1, "easy"), (2, "hard")]
    assert stages([np.nan, 2, 2]) == [(2, "medium")]
    assert stage_starts(make_run("none", 10)) == []
    assert stage_starts(make_run("empty", 0)) == []


def test_a_log_whose_stages_make_no_sense_has_few_marks():
    assert stages([1, 2, 1, 2, 1, 3, 1]) == [(1, "easy"), (2, "medium"), (6, "hard")]
    assert stages([0, 7, 1.5, np.inf, 1]) == [(5, "easy")]
