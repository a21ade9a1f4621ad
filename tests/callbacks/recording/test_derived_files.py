"""What is derived from a journal is kept fresh by a process beside the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hf_difflm.callbacks.recording import derived_files as module
from hf_difflm.callbacks.recording.derived_files import DerivedFiles
from hf_difflm.runs import Journal
from hf_difflm.runs.derived.rebuild import derived_files
from hf_difflm.runs.journal.schema import RunRecord, StepRecord

PATIENCE = 120.0
ROOT = Path(__file__).parents[3]


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RunRecord(run_name="demo", run_id="id"))
    yield journal
    journal.close()


def _until(found) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _steps(path: Path) -> list[int]:
    return [row["iter"] for row in json.loads(path.read_text())["training_iterations"]] if path.exists() else []


def test_the_files_are_rebuilt_every_interval_by_a_process_that_the_first_rebuild_starts(journal):
    paths = derived_files(journal.path.parent, "demo")
    derived = DerivedFiles(journal.path, paths, interval=3)
    for step in (1, 2):
        journal.append(StepRecord(iter=step, loss=1.0))
        derived.step(step)
    assert derived._process is None
    journal.append(StepRecord(iter=3, loss=1.0))
    derived.step(3)
    child = derived._process._process
    assert child.pid != os.getpid()
    _until(lambda: _steps(paths[0]) == [1, 2, 3] and paths[1].exists())
    if hasattr(os, "getpriority"):
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == 19
    journal.append(StepRecord(iter=4, loss=1.0))
    derived.write()
    assert child.poll() is not None
    assert _steps(paths[0]) == [1, 2, 3, 4]
    assert sorted(path.name for path in journal.path.parent.iterdir()) == [
        "demo.json",
        "demo_metrics.json",
        "journal.jsonl",
    ]


def test_where_no_process_can_be_started_the_files_are_written_at_the_end(journal, monkeypatch, caplog):
    def refuse(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module.JournalProcess, "_start", refuse)
    paths = derived_files(journal.path.parent, "demo")
    derived = DerivedFiles(journal.path, paths, interval=1)
    for step in (1, 2, 3):
        derived.step(step)
    assert caplog.text.count("written at the end alone") == 1
    derived.write()
    assert paths[0].exists()


def test_the_process_imports_no_torch_and_says_what_went_wrong(tmp_path):
    code = f"""
        import os, sys
        from hf_difflm.runs.derived import process as derived_process
        derived_process.requests = lambda parent: iter(["1", "2", "end"])
        derived_process.main([{str(tmp_path / "away.jsonl")!r}, "--parent", str(os.getppid())])
        print(sorted({{"torch", "transformers", "matplotlib", "pyarrow"}} & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=True)
    account, modules = out.stdout.splitlines()
    assert modules == "[]"
    assert "away.jsonl" in json.loads(account)["problem"]
    assert json.loads(account)["cpu_seconds"] > 0
