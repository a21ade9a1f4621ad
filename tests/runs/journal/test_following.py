from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import write_run

from hf_difflm.errors import UserError
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.following import describe, follow, journal_of, last_lines, parse
from hf_difflm.runs.journal.schema import (
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    RunRecord,
    SampleRecord,
    StepRecord,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 40_000), max_size=12), st.integers(0, 15), st.booleans())
def test_the_last_lines_are_those_of_the_file_without_a_torn_one(tmp_path, lengths, wanted, torn):
    lines = ["x" * length for length in lengths]
    path = tmp_path / "journal.jsonl"
    whole = "".join(f"{line}\n" for line in lines)
    path.write_text(whole + ("torn" if torn else ""))
    found, offset = last_lines(path, wanted)
    assert found == (lines[-wanted:] if wanted else [])
    assert offset == len(whole)


def test_lines_are_followed_as_they_are_written_until_the_run_ends(tmp_path):
    folder = write_run(tmp_path / "run", steps=3, ending="")
    path = folder / "journal.jsonl"
    before, offset = last_lines(path, 1)
    assert parse(before[0]).iter == 3
    journal = Journal(path)

    def write_the_rest() -> None:
        for step in (4, 5):
            journal.append(StepRecord(iter=step, loss=1.0))
        journal.append(EventRecord(event="completed", iter=5))

    writer = threading.Timer(0.05, write_the_rest)
    writer.start()
    records = [parse(line) for line in follow(path, offset, poll_seconds=0.01)]
    writer.join()
    assert [record.iter for record in records] == [4, 5, 5]


def test_a_line_in_the_making_is_told_once_it_is_whole_and_a_torn_one_never(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"type": "step", "iter": 1}\n{"type": "st')
    lines = follow(path, 0, poll_seconds=0.01)
    assert parse(next(lines)).iter == 1

    def resume() -> None:  # cuts the torn line off, as the journal does, and goes on
        journal = Journal(path)
        journal.append(StepRecord(iter=2))
        journal.append(EventRecord(event="interrupted", iter=2))

    writer = threading.Timer(0.05, resume)
    writer.start()
    assert [parse(line).iter for line in lines] == [2, 2]
    writer.join()


def test_a_journal_that_begins_anew_is_read_anew_and_a_removed_one_ends_it(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"type": "step", "iter": 1}\n' * 5)
    lines = follow(path, 0, poll_seconds=0.01)
    assert len(list(itertools.islice(lines, 5))) == 5
    path.write_text('{"type": "step", "iter": 7}\n')
    assert parse(next(lines)).iter == 7
    path.unlink()
    assert list(lines) == []


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (StepRecord(iter=1200, loss=1.5, lr=1e-3, mfu=30.0), "step   1,200  loss 1.5000  lr 1.00e-03  mfu 30.0 %"),
        (StepRecord(iter=1), "step       1  loss -"),
        (
            EvaluationRecord(iter=3, metrics={"eval_nll": 2.0, "eval_nll_stderr": 0.5}),
            "eval       3  2.0000 ± 0.5000 nats/token",
        ),
        (CheckpointRecord(iter=3, path="checkpoint-3"), "save       3  checkpoint-3"),
        (SampleRecord(iter=3, prompt="a", text="b\n\x1b"), "text       3  'a' -> 'b\\n\\x1b'"),
        (EventRecord(event="failed", iter=3, message="why\nnot"), "failed at step 3: why not"),
        (RunRecord(run_name="x\x07"), "run x\\x07 (objective unknown)"),
    ],
)
def test_every_record_is_one_line_for_people(record, text):
    assert describe(record) == text


def test_damaged_lines_are_no_records():
    assert parse("{") is None
    assert parse("[1]") is None
    assert parse('{"type": "something new"}') is None


def test_a_place_without_a_journal_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no journal at"):
        journal_of(tmp_path)
