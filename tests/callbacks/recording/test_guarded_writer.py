"""The end of a run on a full disk is written down, for the derived files make room."""

from __future__ import annotations

import errno
import os

import pytest

from hf_difflm.callbacks.recording.guarded_writer import LogWriter
from hf_difflm.errors import UserError
from hf_difflm.runs import Journal, load_run, recover
from hf_difflm.runs.derived.rebuild import derived_files
from hf_difflm.runs.journal.append_only import RECORDS_LOST
from hf_difflm.runs.journal.schema import EventRecord, RunRecord, StepRecord


class SmallDisk(Journal):
    """A journal on a disk of so many bytes."""

    size = 10**9

    def append_lines(self, lines):
        if sum(path.stat().st_size for path in self.path.parent.iterdir()) + 100 > self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        super().append_lines(lines)


@pytest.fixture
def journal(tmp_path):
    journal = SmallDisk(tmp_path / "run" / "journal.jsonl")
    journal.open()
    journal.append(RunRecord(run_name="demo", run_id="id"))
    yield journal
    journal.close()


def _writer(journal):
    return LogWriter(journal, derived_files(journal.path.parent, "demo"), 10)


def _fill(log, journal):
    for step in range(1, 51):
        log.append(StepRecord(iter=step, loss=1.0), step)
    log.rebuild()
    journal.size = sum(path.stat().st_size for path in journal.path.parent.iterdir())
    log.append(StepRecord(iter=51, loss=1.0), 51)
    log.append_all([StepRecord(iter=step, loss=1.0) for step in (52, 53)], 53)


def test_on_a_full_disk_the_end_and_what_was_lost_are_known_and_the_rest_can_be_rebuilt(journal, caplog):
    log = _writer(journal)
    _fill(log, journal)
    log.append(EventRecord(event="completed", iter=53), 53)
    run = load_run(journal.path)
    assert (run.status, len(run.steps)) == ("completed", 50)
    assert [(event.event, event.message) for event in run.events] == [
        (RECORDS_LOST, "3 records before this one could not be written"),
        ("completed", None),
    ]
    assert caplog.text.count("cannot be written") == 1
    assert os.listdir(journal.path.parent) == ["journal.jsonl"]
    log.finish()
    assert load_run(recover(journal.path.parent)[0]).status == "completed"


def test_steps_never_cost_the_derived_files(journal):
    log = _writer(journal)
    _fill(log, journal)
    assert sorted(os.listdir(journal.path.parent)) == ["demo.json", "demo_metrics.json", "journal.jsonl"]


def test_a_single_lost_record_is_one(journal):
    log = _writer(journal)
    journal.size = 0
    log.append(StepRecord(iter=1), 1)
    journal.size = 10**9
    log.append(StepRecord(iter=2), 2)
    assert load_run(journal.path).events[0].message == "1 record before this one could not be written"


def test_a_journal_that_was_deleted_meanwhile_stops_nothing(journal, caplog):
    log = _writer(journal)
    journal.path.unlink()
    log.append(StepRecord(iter=1), 1)
    journal.size = 0
    log.append(EventRecord(event="completed", iter=1), 1)
    assert "cannot be written" in caplog.text
    with pytest.raises(UserError, match="no journal"):
        recover(journal.path.parent)
