"""Small runs, written the way a training writes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_difflm.runs import Journal, Run, load_run
from hf_difflm.runs.journal.schema import EvaluationRecord, EventRecord, RunRecord, SampleRecord, StepRecord

WriteRun = Callable[..., Run]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    def write(
        name: str = "demo", steps: int = 20, evaluate_every: int = 10, ending: str = "completed", **header
    ) -> Run:
        folder = tmp_path / name
        journal = Journal(folder / "journal.jsonl")
        journal.path.unlink(missing_ok=True)
        journal.append(RunRecord(run_name=name, run_id=f"id-{name}", **header))
        journal.append(EventRecord(event="started", iter=0))
        for step in range(1, steps + 1):
            loss = 2.0 + 3.0 * math.exp(-step / 10)
            journal.append(
                StepRecord(iter=step, loss=loss, time_ms=50.0, lr=1e-3, tokens_per_sec=1000.0, tokens_seen=50 * step)
            )
            if step % evaluate_every == 0:
                metrics = {"eval_nll": loss + 0.1, "eval_nll_stderr": 0.01, "eval_bpb": 3.0, "eval_ppl": math.exp(loss)}
                journal.append(EvaluationRecord(iter=step, metrics=metrics))
                journal.append(SampleRecord(iter=step, prompt="The", text=f"text at {step}"))
        if ending:
            journal.append(EventRecord(event=ending, iter=steps))
        journal.close()
        return load_run(folder)

    return write
