"""A run whose process is gone is seen to be dead within seconds, and a living one never is, however long it is silent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_runs import write_run

from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.journal import append_only
from hf_difflm.runs.journal.append_only import seems_abandoned, this_machine
from hf_difflm.runs.journal.schema import EventRecord

pytest.importorskip("fcntl")

WRITER = """
import sys
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.schema import StepRecord
journal = Journal(sys.argv[1])
journal.append(StepRecord(iter=21, loss=1.0))
print("writing", flush=True)
sys.stdin.read()
"""


def silent(folder: Path, seconds: float) -> Path:
    moment = time.time() - seconds
    os.utime(folder / "journal.jsonl", (moment, moment))
    return folder


@pytest.fixture
def dead(tmp_path):
    """A run of this machine that nobody has open and nothing was written to for ten seconds."""
    return silent(write_run(tmp_path / "dead", ending="", metadata={"machine": this_machine()}), 10)


@pytest.fixture
def writer(tmp_path):
    folder = write_run(tmp_path / "live", ending="", metadata={"machine": this_machine()})
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WRITER, str(folder / "journal.jsonl")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


SENTENCE = re.compile(r"dead at step 20, last sign \d+ (s|min) ago")


def test_every_command_says_that_a_run_is_dead_and_where_and_since_when(hf, dead):
    assert re.search(r"dead, last sign \d+ (s|min) ago +20 ", hf("runs", "list", dead).out)
    assert SENTENCE.search(hf("runs", "show", dead).out)
    checked = hf("doctor", "--run", dead)
    assert SENTENCE.search(checked.out)
    assert re.search(r"✗ +run", checked.out)
    followed = hf("runs", "tail", dead, "-f", "-n", "0")
    assert (followed.out, bool(SENTENCE.search(followed.err))) == ("", True)
    watched = hf("dashboard", dead, "--watch")
    assert watched.out.startswith("step 20, dead: ")
    assert SENTENCE.search(watched.err)


def test_a_living_run_is_never_called_dead_and_is_within_seconds_of_its_death(hf, writer, tmp_path):
    folder = tmp_path / "live"
    silent(folder, 7200)
    assert (load_run(folder).shown_status, load_run(folder).death) == ("running", None)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    begun = time.monotonic()
    os.utime(folder / "journal.jsonl")
    followed = hf("runs", "tail", folder, "-f", "-n", "0")
    assert "dead at step 21" in followed.err
    assert 1.0 < time.monotonic() - begun < 30.0  # two seconds, and what a loaded machine adds


def test_a_run_of_another_machine_is_silent_for_a_minute_first_as_its_lock_may_not_reach_here(tmp_path):
    for metadata in ({}, {"machine": "another"}):
        folder = write_run(tmp_path / f"{len(metadata)}", ending="", metadata=metadata)
        assert load_run(silent(folder, 40)).death is None
        assert load_run(silent(folder, 70)).death is not None


def test_a_run_that_has_ended_since_it_was_read_or_that_we_write_ourselves_is_not_dead(dead):
    run = load_run(dead)
    journal = Journal(dead / "journal.jsonl")
    journal.open()
    assert not load_run(silent(dead, 3600)).killed  # ours
    journal.append(EventRecord(event="completed", iter=20))
    journal.close()
    silent(dead, 3600)
    assert run.status == "running"
    assert (run.killed, run.death) == (False, None)


def test_where_a_file_system_has_no_locks_nothing_is_called_dead(dead, monkeypatch):
    def refuses(descriptor, kind):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(append_only.fcntl, "flock", refuses)
    assert not seems_abandoned(silent(dead, 3600) / "journal.jsonl", this_machine())


def test_who_asks_whether_a_run_lives_does_not_keep_it_from_being_resumed(dead):
    import fcntl
    import threading

    asked = os.open(dead / "journal.jsonl", os.O_RDONLY)
    fcntl.flock(asked, fcntl.LOCK_SH)
    threading.Timer(0.03, os.close, [asked]).start()
    journal = Journal(dead / "journal.jsonl")
    journal.open()
    journal.close()
