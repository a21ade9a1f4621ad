"""One writer at a time: a second one is refused while the first lives, and not a moment longer."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from hf_difflm.runs import Journal
from hf_difflm.runs import journal as journal_module
from hf_difflm.runs.journal import read_records
from hf_difflm.runs.schema import StepRecord

fcntl = pytest.importorskip("fcntl")

WRITER = """
import sys
from hf_difflm.runs import Journal
from hf_difflm.runs.schema import StepRecord
journal = Journal(sys.argv[1])
journal.append(StepRecord(iter=1))
print("writing", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def live_writer(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "journal.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_killed(live_writer, tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(BlockingIOError, match="another process is writing it"):
        journal.append(StepRecord(iter=2))
    assert [record.iter for record in read_records(journal.path)[0]] == [1]  # and anyone may read
    os.kill(live_writer.pid, signal.SIGKILL)
    live_writer.wait()
    journal.append(StepRecord(iter=2))
    assert [record.iter for record in read_records(journal.path)[0]] == [1, 2]


def test_a_second_journal_in_the_same_process_is_refused_until_the_first_is_closed(tmp_path):
    first, second = Journal(tmp_path / "journal.jsonl"), Journal(tmp_path / "journal.jsonl")
    first.append(StepRecord(iter=1))
    with pytest.raises(BlockingIOError):
        second.clear()
    first.close()
    second.clear()
    assert read_records(second.path) == ([], 0)
    second.close()


def _wait(event) -> None:
    event.wait(20)


def test_a_forked_data_worker_does_not_keep_the_lock_of_a_training_that_ended(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(StepRecord(iter=1))
    context = multiprocessing.get_context("fork")
    done = context.Event()
    worker = context.Process(target=_wait, args=(done,), daemon=True)
    worker.start()
    try:
        journal.append(StepRecord(iter=2))  # the worker's copy is closed, ours is not
        journal.close()
        Journal(journal.path).append(StepRecord(iter=3))
    finally:
        done.set()
        worker.join()
    assert [record.iter for record in read_records(journal.path)[0]] == [1, 2, 3]


def test_reading_while_writing_does_not_free_the_lock(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(StepRecord(iter=1))
    reader = threading.Thread(target=read_records, args=(journal.path,))
    reader.start()
    reader.join()
    with pytest.raises(BlockingIOError):
        Journal(journal.path).open()
    journal.close()


def test_a_system_without_locks_writes_without_one(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "fcntl", None)
    first, second = Journal(tmp_path / "journal.jsonl"), Journal(tmp_path / "journal.jsonl")
    first.append(StepRecord(iter=1))
    second.append(StepRecord(iter=2))
    assert len(read_records(first.path)[0]) == 2
    first.close()
    second.close()
