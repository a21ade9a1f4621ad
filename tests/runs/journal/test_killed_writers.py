"""A writer is killed 200 times, at random moments, and resumed each time: nothing is torn, missing or there twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from hf_difflm.runs import load_run
from hf_difflm.runs.journal.atomic_files import remove_leftovers
from hf_difflm.runs.journal.strict_json import dumps

KILLS, RUNS = 200, 10
ROOT = Path(__file__).parents[3]

# A process without torch forks the writers: 200 interpreters would take minutes to start. It answers each kill with the
# number of records that the writer had been told are written.
FORKER = textwrap.dedent(
    """
    import os, random, select, signal, sys, time
    from pathlib import Path
    from hf_difflm.runs.derived.rebuild import DerivedWriter
    from hf_difflm.runs.journal.atomic_files import write_text
    from hf_difflm.runs.journal.append_only import Journal
    from hf_difflm.runs.journal.reading import find_run
    from hf_difflm.runs.journal.schema import CheckpointRecord, EvaluationRecord, EventRecord, RunRecord, StepRecord

    def write(folder, told):
        journal = Journal(folder / "journal.jsonl")
        previous = find_run(journal.path) if journal.path.exists() else None
        checkpoint = folder / "checkpoint"
        step = int(checkpoint.read_text()) if checkpoint.exists() else 0
        journal.append(RunRecord(run_name="killed", run_id=previous.header.run_id if previous else "id"))
        kind = "resumed" if previous else "started"
        journal.append(EventRecord(event=kind, resumed_from_step=step if previous else None))
        derived = DerivedWriter(journal.path)
        derived.write()
        while True:
            step += 1
            journal.append(StepRecord(iter=step, loss=1 / step, lr=float("nan") if step % 7 == 0 else 1e-3))
            os.write(told, b"%d\\n" % step)
            if step % 3 == 0:
                journal.append(EvaluationRecord(iter=step, metrics={"eval_nll": 1 / step}))
            if step % 5 == 0:
                write_text(checkpoint, str(step))
                journal.append(CheckpointRecord(iter=step, path=f"checkpoint-{step}"))
            derived.write()  # no rest: as many rebuilds as can be, to be killed in

    print("ready", flush=True)
    for line in sys.stdin:
        folder, seconds = line.split()
        read, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            write(Path(folder), told)
        os.close(told)
        first = os.read(read, 1)  # the writer has begun
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read, "rb") as pipe:
            steps = (first + pipe.read()).split()
        print(steps[-1].decode(), flush=True)
    """
)


def strict(path: Path) -> Any:
    """The value of a file that must be JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_bytes(), parse_constant=refuse)


def check(folder: Path, told: int) -> int:
    """Everything that must hold after a kill; returns the last step that is in the journal."""
    run = load_run(folder)
    steps = run.column("iter").tolist()
    assert steps == list(range(1, len(steps) + 1)), "a gap or a step that is there twice"
    assert told <= len(steps) <= told + 1
    assert run.status == "running"
    assert run.damaged_lines == 0
    assert {header.run_id for header in run.headers} == {"id"}
    assert [e.iter for e in run.evaluations if e.iter < len(steps)] == [s for s in range(3, len(steps), 3)]
    content = (folder / "journal.jsonl").read_bytes()
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant))
    document, metrics = strict(folder / "killed.json"), strict(folder / "killed_metrics.json")
    assert document["status"] == "running"
    assert document["summary"].keys() >= {"final_iter", "best_val_loss", "best_val_iter"}
    assert metrics["steps"] == list(range(1, len(metrics["steps"]) + 1))
    # Both are rebuilt after each step: they lack at most the step whose rebuild the kill came in.
    for known in (len(document["training_iterations"]), len(metrics["steps"])):
        assert told - 1 <= known <= len(steps)
    assert dumps(document)
    return len(steps)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_hundred_kills_leave_valid_files_and_a_resume_neither_gap_nor_duplicate(tmp_path):
    generator = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as forker:
        assert forker.stdin is not None
        assert forker.stdout is not None
        assert forker.stdout.readline() == "ready\n"
        lasts = []
        for kill in range(KILLS):
            folder = tmp_path / str(kill % RUNS)
            folder.mkdir(exist_ok=True)
            forker.stdin.write(f"{folder} {generator.uniform(0, 0.02):.6f}\n")
            forker.stdin.flush()
            told = int(forker.stdout.readline())
            lasts.append(check(folder, told))
            for name in ("checkpoint", "killed.json", "killed_metrics.json"):
                remove_leftovers(folder / name)
            assert not [path for path in folder.iterdir() if path.name.startswith(".")]
        forker.stdin.close()
    assert max(lasts) > 5  # the writers did get somewhere, also on a busy machine
