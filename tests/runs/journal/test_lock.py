"""One writer at a time: a second one is refused while the first lives, and not a moment longer."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hf_difflm.runs import Journal
from hf_difflm.runs.journal import append_only as journal_module
from hf_difflm.runs.journal.append_only import read_records
from hf_difflm.runs.journal.schema import StepRecord

fcntl = pytest.importorskip("fcntl")

WRITER = """
import sys
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.schema import StepRecord
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


def _started_and_waiting(started, done) -> None:
    started.set()
    done.wait(20)


def test_a_forked_data_worker_neither_frees_the_lock_of_a_living_training_nor_keeps_that_of_a_dead_one(tmp_path):
    context = multiprocessing.get_context("fork")
    started, done = context.Event(), context.Event()

    def train_and_die() -> None:
        journal = Journal(tmp_path / "journal.jsonl")
        journal.append(StepRecord(iter=1))
        context.Process(target=_started_and_waiting, args=(started, done)).start()
        started.wait(20)  # the worker has closed its copy
        try:
            Journal(journal.path).open()
        except BlockingIOError:
            journal.append(StepRecord(iter=2))  # still locked, and ours still open
        os.kill(os.getpid(), signal.SIGKILL)

    training = context.Process(target=train_and_die)
    training.start()
    try:
        # join() would wait for the worker, too: it has inherited what tells that the training is over.
        while training.exitcode is None:
            time.sleep(0.01)
        assert training.exitcode == -signal.SIGKILL
        Journal(tmp_path / "journal.jsonl").append(StepRecord(iter=3))  # the worker lives on
    finally:
        done.set()
    assert [record.iter for record in read_records(tmp_path / "journal.jsonl")[0]] == [1, 2, 3]


def test_closing_frees_the_lock_though_a_process_forked_a_moment_ago_still_holds_a_copy(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.open()
    copy = os.dup(journal._opened())  # what a child holds before its first line of Python has run
    try:
        journal.close()
        Journal(journal.path).append(StepRecord(iter=1))
    finally:
        os.close(copy)


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


def test_the_lock_of_a_journal_that_nobody_closed_goes_with_it(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(StepRecord(iter=1))
    del journal
    gc.collect()
    Journal(tmp_path / "journal.jsonl").append(StepRecord(iter=2))


def test_a_run_that_nobody_writes_and_that_was_silent_for_a_minute_seems_abandoned(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(StepRecord(iter=1))
    look = "import sys, pathlib; from hf_difflm.runs.journal.append_only import seems_abandoned as seems; "
    reader = look + f"sys.exit(seems(pathlib.Path({str(journal.path)!r})))"

    def seems() -> bool:
        root = str(Path(__file__).parents[3])
        return bool(subprocess.run([sys.executable, "-c", reader], env=os.environ | {"PYTHONPATH": root}).returncode)

    os.utime(journal.path, (0, 0))
    assert not seems()  # silent, but alive
    journal.close()
    assert seems()
    os.utime(journal.path)
    assert not seems()  # it may be resumed just now
