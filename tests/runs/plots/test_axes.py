from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_runs import make_run

from hf_difflm.runs.journal.steps import Steps
from hf_difflm.runs.plots.axes import AXES, evaluation_series, positions_at, row_positions, step_series


@pytest.mark.parametrize(
    ("axis", "last"), [("step", 100), ("tokens", 10_000), ("flops", 1e11), ("time", 5.0), ("epoch", 2.5)]
)
def test_each_axis_ends_where_the_run_does(axis, last):
    run = make_run(steps=100)
    x, y = step_series(run, "loss", axis)
    assert x[-1] == pytest.approx(last)
    assert len(x) == len(y) == 100
    at, nll, error = evaluation_series(run, axis)
    assert (at[0], at[-1]) == (0.0, pytest.approx(last))  # the evaluation before training lies at nothing spent
    assert len(at) == len(nll) == len(error)


def test_every_axis_is_tested_above():
    assert set(AXES) == {"step", "tokens", "flops", "time", "epoch"}


def test_an_axis_the_log_knows_nothing_of_is_unknown_and_its_series_are_empty():
    run = make_run()
    run = dataclasses.replace(run, steps=Steps({"iter": run.column("iter"), "steps": run.column("steps")}))
    for axis in ("tokens", "flops", "time", "epoch"):
        assert row_positions(run, axis) is None
        assert len(evaluation_series(run, axis)[0]) == 0


def test_rows_of_several_steps_count_their_time_and_their_tokens_in_full():
    columns = {
        "iter": np.array([10.0, 20.0]),
        "steps": np.array([10.0, 10.0]),
        "time_ms": np.array([100.0, 300.0]),
        "tokens_per_sec": np.array([1000.0, 1000.0]),
    }
    run = dataclasses.replace(make_run(), steps=Steps(columns))
    assert row_positions(run, "time").tolist() == [1.0, 4.0]
    assert row_positions(run, "tokens").tolist() == [1000.0, 4000.0]
    assert positions_at(run, "time", np.array([0.0, 5.0, 15.0])).tolist() == [0.0, 0.5, 2.5]


def test_unknown_values_are_left_out_of_a_series():
    loss = np.full(100, 2.0)
    loss[[3, 50]] = np.nan
    x, y = step_series(make_run(columns={"loss": loss}), "loss", "step")
    assert len(x) == len(y) == 98
    assert 4 not in x


def test_a_log_of_evaluations_alone_has_the_training_loss_between_them():
    run = make_run(evaluations=2)
    evaluations = [
        dataclasses.replace(record, train_loss=3.0, tokens_seen=10 * record.iter) for record in run.evaluations
    ]
    run = dataclasses.replace(run, steps=Steps.from_records([]), evaluations=evaluations)
    assert [values.tolist() for values in step_series(run, "loss", "tokens")] == [[0, 500, 1000], [3.0, 3.0, 3.0]]
    assert len(step_series(run, "loss", "time")[0]) == 0
