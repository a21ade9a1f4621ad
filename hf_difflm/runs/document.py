"""The JSON document of a run, derived from its journal: one file a run, valid at every instant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..errors import UserError
from .files import document_name, write_text
from .reading import read_journal
from .run import Run
from .schema import StepRecord
from .strict_json import dumps

STEP_KEYS = (
    "iter",
    "loss",
    "time_ms",
    "mfu",
    "lr",
    "grad_norm",
    "tokens_per_sec",
    "accuracy",
    "noise_level",
    "masking_rate",
)
# A rebuild reads the whole journal, so its cost grows; a wait of this many times its duration keeps it below 1 %.
_REST = 100


def build_document(run: Run) -> dict[str, Any]:
    """Return the document of a run: every key is always there, null where its value is unknown.

    ``eval_steps`` hold ``iter, train_loss, val_loss, val_loss_stderr, lr, timestamp`` and every metric of the
    evaluation; ``train_loss`` is the mean of the step losses since the evaluation before. Units as in the journal.
    """
    header = run.header
    return {
        "schema_version": header.schema_version,
        "run_name": run.name,
        "run_id": header.run_id,
        "status": run.status,
        "start_time": run.start_time,
        "end_time": run.end_time,
        "objective": run.objective,
        "bound": run.bound,
        "config": run.config,
        "data": header.data,
        "model": header.model,
        "metadata": header.metadata,
        "summary": summarize(run),
        "eval_steps": _eval_steps(run),
        "checkpoints": [
            {"iter": record.iter, "val_loss": record.val_loss, "path": record.path, "timestamp": record.time}
            for record in run.checkpoints
        ],
        "samples": [
            {
                **_named(record.extra),
                "iter": record.iter,
                "prompt": record.prompt,
                "text": record.text,
                "timestamp": record.time,
            }
            for record in run.samples
        ],
        "events": [
            {
                "event": record.event,
                "iter": record.iter,
                "message": record.message,
                "resumed_from_step": record.resumed_from_step,
                "timestamp": record.time,
            }
            for record in run.events
        ],
        "training_iterations": [_training_iteration(record) for record in run.steps],
    }


def summarize(run: Run) -> dict[str, Any]:
    """Return the summary of a run: counts, losses in nats per token, milliseconds and seconds of training."""
    losses = [(step.iter, step.loss) for step in run.steps if step.loss is not None]
    timed = [(step.time_ms, step.steps) for step in run.steps if step.time_ms is not None]
    milliseconds = sum(time_ms * steps for time_ms, steps in timed)
    timed_steps = sum(steps for _, steps in timed)
    mfus = [(step.mfu, step.steps) for step in run.steps if step.mfu is not None]
    best, final = run.best_evaluation, run.final_evaluation
    return {
        "total_iterations": sum(step.steps for step in run.steps),
        "final_iter": run.steps[-1].iter if run.steps else None,
        "final_train_loss": losses[-1][1] if losses else None,
        "best_val_loss": best.nll if best else None,
        "best_val_iter": best.iter if best else None,
        "final_val_loss": final.nll if final else None,
        "avg_time_ms": milliseconds / timed_steps if timed_steps else None,
        "avg_mfu": sum(mfu * steps for mfu, steps in mfus) / sum(steps for _, steps in mfus) if mfus else None,
        "total_eval_steps": len(run.evaluations),
        "total_checkpoints": len(run.checkpoints),
        "tokens_seen": run.tokens_seen,
        "train_seconds": milliseconds / 1000 if timed_steps else None,
    }


def write_document(journal: Path) -> Path:
    """Rebuild the document of a journal next to it, in one step, and return its path.

    Raises:
        UserError: the journal does not exist or has no header.
    """
    run = read_journal(journal)
    path = journal.with_name(document_name(run.name))
    write_text(path, _render(build_document(run)))
    return path


class DocumentWriter:
    """Keep the document of a journal fresh at a cost below one per cent of the time.

    Args:
        journal: the journal it is derived from.
        interval: optimiser steps between rebuilds; one also waits 100 times as long as the last rebuild took.
    """

    def __init__(self, journal: Path, interval: int) -> None:
        if interval < 1:
            raise UserError(f"log_save_interval is {interval}; give a number of steps of at least 1")
        self._journal = journal
        self._interval = interval
        self._last_step: int | None = None
        self._not_before = 0.0

    def step(self, step: int) -> None:
        """Rebuild the document if it is due after this many optimiser steps."""
        if self._last_step is None:
            self._last_step = step - 1
        if step - self._last_step >= self._interval and time.monotonic() >= self._not_before:
            self._last_step = step
            self.write()

    def write(self) -> None:
        """Rebuild the document now."""
        start = time.monotonic()
        write_document(self._journal)
        end = time.monotonic()
        self._not_before = end + _REST * (end - start)


def _render(document: dict[str, Any]) -> str:
    """One line a row, so that a person, grep and diff can read it too."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list):
            text = "[" + ",".join(f"\n    {dumps(row)}" for row in value) + ("\n  ]" if value else "]")
        else:
            text = dumps(value, indent=2).replace("\n", "\n  ")
        parts.append(f"  {dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _training_iteration(record: StepRecord) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(record, key) for key in STEP_KEYS}
    if record.steps != 1:
        row["steps"] = record.steps
    if record.tokens_seen is not None:
        row["tokens_seen"] = record.tokens_seen
    if record.nonfinite:
        row["nonfinite"] = record.nonfinite
    return {**_named(record.extra), **row}


def _eval_steps(run: Run) -> list[dict[str, Any]]:
    rows = []
    place, lr = 0, None
    train_loss: float | None = None
    last_iter: int | None = None
    for evaluation in run.evaluations:
        weighted, weight = 0.0, 0
        while place < len(run.steps) and run.steps[place].iter <= evaluation.iter:
            step = run.steps[place]
            place += 1
            lr = step.lr if step.lr is not None else lr
            if step.loss is not None:
                weighted += step.loss * step.steps
                weight += step.steps
        # A second evaluation at the same step (another data set, a final one) has the same training before it.
        if evaluation.iter != last_iter or weight:
            train_loss = weighted / weight if weight else None
        last_iter = evaluation.iter
        rows.append(
            {
                "iter": evaluation.iter,
                "train_loss": train_loss,
                "val_loss": evaluation.nll,
                "val_loss_stderr": evaluation.nll_stderr,
                "lr": lr,
                "timestamp": evaluation.time,
                **{name: value for name, value in evaluation.metrics.items() if name not in _EVAL_KEYS},
            }
        )
    return rows


_EVAL_KEYS = ("iter", "train_loss", "val_loss", "val_loss_stderr", "lr", "timestamp")


def _named(extra: dict[str, Any]) -> dict[str, Any]:
    """The further fields of a record, without the journal's envelope."""
    return {name: value for name, value in extra.items() if name not in ("type", "time")}
