"""Steps are columns, and look like the list of records they were made from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.runs.journal.schema import StepRecord
from hf_difflm.runs.journal.steps import Steps

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
records = st.lists(
    st.builds(
        StepRecord,
        time=st.sampled_from(["t", "longer", ""]),
        iter=st.integers(0, 2**53),
        steps=st.integers(1, 9),
        loss=numbers,
        mfu=numbers,
        tokens_seen=st.none() | st.integers(0, 2**53),
        extra=st.dictionaries(st.sampled_from("ab"), st.floats(0, 1) | st.text(max_size=2), max_size=2),
    ),
    max_size=12,
)


@given(records)
def test_steps_hold_the_records_they_were_made_from(rows):
    steps = Steps.from_records(rows)
    assert len(steps) == len(rows)
    assert list(steps) == rows
    assert [steps[place] for place in range(len(rows))] == rows
    assert list(steps[1:]) == rows[1:]
    assert list(steps[::-2]) == rows[::-2]
    assert steps == Steps.from_records(rows)
    for name in ("loss", "iter", "steps", "unheard_of"):
        expected = [math.nan if getattr(row, name, None) is None else getattr(row, name) for row in rows]
        assert np.array_equal(steps.column(name), np.array(expected, dtype=float), equal_nan=True)


@given(st.lists(records, min_size=1, max_size=4))
def test_pieces_put_together_are_the_whole(pieces):
    whole = Steps.concatenate([Steps.from_records(piece) for piece in pieces])
    assert list(whole) == [row for piece in pieces for row in piece]


@given(records, st.integers(0, 2**53))
def test_rows_up_to_a_step_are_kept_with_all_they_say(rows, step):
    assert list(Steps.from_records(rows).up_to(step)) == [row for row in rows if row.iter <= step]


def test_a_place_outside_is_an_index_error_and_the_last_row_is_minus_one():
    steps = Steps.from_records([StepRecord(iter=1), StepRecord(iter=2)])
    assert steps[-1].iter == 2
    with pytest.raises(IndexError):
        steps[2]


def test_what_is_not_finite_is_unknown_and_its_flag_stays():
    (row,) = Steps.from_records([StepRecord(iter=1, loss=math.inf, nonfinite=["loss", "entropy"])])
    assert row.loss is None
    assert row.nonfinite == ["loss", "entropy"]
    assert row.extra == {"entropy": None}


def test_a_data_frame_has_a_column_for_each_known_quantity_and_whole_numbers_where_they_are_whole(write_run):
    run = write_run(steps=5)
    frame = run.to_dataframe()
    assert len(frame) == 5
    assert frame["iter"].tolist() == [1, 2, 3, 4, 5]
    assert str(frame["iter"].dtype) == str(frame["tokens_seen"].dtype) == "int64"
    assert frame["loss"].mean() == pytest.approx(float(run.column("loss").mean()))
    assert "mfu" not in frame


def test_a_data_frame_of_no_steps_is_empty(write_run):
    assert write_run(steps=0).to_dataframe().empty
