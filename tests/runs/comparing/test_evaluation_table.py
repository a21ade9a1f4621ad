from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_run

from hf_difflm.runs.comparing.evaluation_table import evaluation_cells, evaluation_headings, train_losses
from hf_difflm.runs.derived.document import build_document
from hf_difflm.runs.journal.schema import EvaluationRecord


@given(
    st.lists(st.floats(0, 100) | st.none(), max_size=30),
    st.lists(st.integers(0, 80), max_size=8),
    st.integers(1, 3),
)
def test_the_training_loss_before_an_evaluation_is_that_of_the_document(losses, at, each):
    rows = np.arange(1, len(losses) + 1, dtype=float)
    known = np.array([np.nan if loss is None else loss for loss in losses], dtype=float)
    columns = {"iter": rows * each, "steps": np.full(len(losses), float(each)), "loss": known}
    run = make_run(steps=len(losses), columns=columns)
    run = dataclasses.replace(run, evaluations=[EvaluationRecord(iter=step, metrics={}) for step in sorted(at)])
    expected = [row["train_loss"] for row in build_document(run)["eval_steps"]]
    found = train_losses(run)
    assert [loss is None for loss in found] == [loss is None for loss in expected]
    assert [loss for loss in found if loss is not None] == pytest.approx(
        [loss for loss in expected if loss is not None]
    )


def test_a_row_has_a_cell_for_each_heading_and_dashes_where_a_number_is_unknown():
    rows = evaluation_cells(run := make_run(steps=100, evaluations=2))
    assert [row[0] for row in rows] == ["0", "50", "100"]
    assert {len(row) for row in rows} == {len(evaluation_headings(run))}
    assert rows[0][1] == "-"
    assert rows[1][2].endswith("± 0.0100")
