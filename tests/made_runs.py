"""Runs of any shape, made in memory or written the way a training writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_difflm.runs import Journal, Run
from hf_difflm.runs.comparing.units import write_evaluation
from hf_difflm.runs.journal.schema import EvaluationRecord, EventRecord, RunRecord, SampleRecord, StepRecord
from hf_difflm.runs.journal.steps import Steps

TIME = "2026-01-02T03:04:05.678+00:00"


def make_run(
    name: str = "demo",
    steps: int = 100,
    *,
    objective: str | None = "mdlm",
    bound: str | None = "nelbo",
    evaluations: int = 5,
    final: float = 2.0,
    columns: dict[str, np.ndarray] | None = None,
    samples: list[SampleRecord] | None = None,
    **config: Any,
) -> Run:
    """A run in memory: a loss that falls to ``final``, every quantity known, one sample an evaluation."""
    iters = np.arange(1, steps + 1, dtype=np.float64)
    loss = final + 3 * np.exp(-iters / max(steps / 8, 1))
    known = {
        "iter": iters,
        "steps": np.ones(steps),
        "loss": loss,
        "time_ms": np.full(steps, 50.0),
        "lr": np.full(steps, 1e-3),
        "tokens_per_sec": np.full(steps, 2000.0),
        "tokens_seen": 100 * iters,
        "total_flops": 1e9 * iters,
        "epoch": iters / max(steps / 2.5, 1),
        "mfu": np.full(steps, 30.0),
    }
    at = sorted({round(steps * place / max(evaluations, 1)) for place in range(evaluations + 1)}) if evaluations else []
    records = [
        EvaluationRecord(
            iter=step,
            time=TIME,
            metrics={
                "eval_nll": final + 3 * math.exp(-step / max(steps / 8, 1)),
                "eval_nll_stderr": 0.01,
                "eval_bpb": 3.0,
                "eval_accuracy": 0.5,
            },
        )
        for step in at
    ]
    header = RunRecord(
        run_name=name,
        run_id=f"id-{name}",
        time=TIME,
        objective=objective,
        bound=bound,
        config={"learning_rate": 1e-3, "batch": 8, **config},
        data={"fingerprint": "f"},
        model={"type": "tiny", "parameters": 1234},
        metadata={"device": "cpu", "command": "hf-difflm train --recipe demo"},
    )
    return Run(
        Path("somewhere") / name / "journal.jsonl",
        headers=[header],
        steps=Steps({**known, **(columns or {})}),
        evaluations=records,
        samples=samples
        if samples is not None
        else [SampleRecord(iter=step, time=TIME, prompt="The", text=f" text at {step}") for step in at[1:]],
        events=[EventRecord(event="started", iter=0, time=TIME), EventRecord(event="completed", iter=steps, time=TIME)],
    )


def evaluated(
    run: Run,
    folder: Path,
    *,
    texts: Sequence[str] = ("a", "b", "c"),
    nll: Sequence[float] = (1.0, 2.0, 3.0),
    unit: str = "documents",
    known: bool = True,
    **digests: Sequence[str],
) -> Run:
    """The run in a folder, with its best evaluation there by unit: text i has (i + 1) * 10 tokens and bytes, ``nll`` each.

    ``digests`` are ``tokens`` or ``context``, where the same text has others; ``known``: whether there are any digests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [10 * (place + 1) for place in range(len(texts))]
    contents = {"text": texts, "tokens": texts, "context": texts, "num_bytes": tokens, **digests}
    totals = [count * each for count, each in zip(tokens, nll, strict=True)]
    write_evaluation(folder, 100, unit, list(range(len(texts))), tokens, totals, contents if known else None)
    return replace(run, path=folder / "journal.jsonl")


def million_steps(spike_at: int = 123_456) -> Run:
    """A run of a million noisy steps with a single spike."""
    size = 1_000_000
    noise = np.random.default_rng(0).normal(0.0, 0.05, size)
    loss = 2.0 + 2.0 * np.exp(-np.arange(size) / 1e5) + noise
    loss[spike_at - 1] = 40.0
    return make_run("long", size, columns={"loss": loss, "time_ms": 50 + noise})


def write_run(
    folder: Path, name: str | None = None, steps: int = 20, ending: str = "completed", final: float = 2.0, **header: Any
) -> Path:
    """A run on disk with an evaluation and a sample every ten steps; the folder is returned."""
    journal = Journal(folder / "journal.jsonl")
    header.setdefault("config", {"learning_rate": 1e-3, "seed": 1})
    journal.append(RunRecord(run_name=name or folder.name, run_id=f"id-{folder.name}", time=TIME, **header))
    journal.append(EventRecord(event="started", iter=0, time=TIME))
    for step in range(1, steps + 1):
        loss = final + 3 * math.exp(-step / 10)
        journal.append(
            StepRecord(
                iter=step, loss=loss, time_ms=50.0, tokens_per_sec=2000.0, tokens_seen=100 * step, epoch=step / 10
            )
        )
        if step % 10 == 0:
            metrics = {"eval_nll": loss, "eval_nll_stderr": 0.01, "eval_accuracy": 1 / loss}
            journal.append(EvaluationRecord(iter=step, metrics=metrics))
            journal.append(SampleRecord(iter=step, prompt="The", text=f" text at {step}"))
    if ending:
        journal.append(EventRecord(event=ending, iter=steps))
    journal.close()
    return folder
