"""The JSON document of a run, derived from its journal: everything that is known, valid at every instant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..journal.run import Run
from ..journal.steps import Steps
from ..journal.strict_json import dumps

STEPS_KEY = "training_iterations"
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


def build_document(run: Run) -> dict[str, Any]:
    """Return the document of a run: every key is always there, null where its value is unknown.

    It is :func:`document_head` and, last, ``training_iterations``.
    """
    return {**document_head(run), STEPS_KEY: [_training_iteration(row) for row in run.steps.rows()]}


def document_head(run: Run) -> dict[str, Any]:
    """Return the document of a run without its steps.

    ``eval_steps`` hold ``iter, train_loss, val_loss, val_loss_stderr, lr, timestamp`` and every metric of the
    evaluation; ``train_loss`` is the mean of the step losses since the evaluation before. Units as in the journal, which
    alone holds the histograms of measurements.
    """
    header = run.header
    return {
        "schema_version": header.schema_version,
        "run_name": run.name,
        "run_id": header.run_id,
        "status": run.status,
        "start_time": run.start_time,
        "end_time": run.end_time,
        **{name: value for name in ("experiment_name", "parent_run") if (value := getattr(header, name)) is not None},
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
        "measurements": [
            {"iter": record.iter, "source": record.source, "metrics": record.metrics, "timestamp": record.time}
            for record in run.measurements
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
    }


def summarize(run: Run) -> dict[str, Any]:
    """Return the summary of a run: counts, losses in nats per token, milliseconds and seconds of training.

    Where steps are not logged, what the evaluations say of the training between them takes their place.
    """
    steps, losses = run.column("steps"), run.column("loss")
    known_losses = losses[~np.isnan(losses)]
    total: int | None
    final_iter: int | None
    if len(run.steps):
        total, final_iter = int(steps.sum()), int(run.column("iter")[-1])
        times, weights = run.column("time_ms"), steps
    else:
        iters = np.array([0, *(evaluation.iter for evaluation in run.evaluations)], dtype=np.float64)
        total = final_iter = int(iters.max()) if run.evaluations else None
        times, weights = _floats([evaluation.time_ms for evaluation in run.evaluations]), np.diff(iters)
        known_losses = _floats([e.train_loss for e in run.evaluations if e.train_loss is not None])
    milliseconds, timed_steps = _weighted(times, weights)
    mfu = run.known("mfu")
    mfu_steps = mfu[:, 1].sum()
    lowest, final = run.lowest_evaluation, run.final_evaluation
    return {
        "total_iterations": total or 0,
        "final_iter": final_iter,
        "final_train_loss": float(known_losses[-1]) if len(known_losses) else None,
        "best_val_loss": lowest.nll if lowest else None,
        "best_val_iter": lowest.iter if lowest else None,
        "final_val_loss": final.nll if final else None,
        "avg_time_ms": milliseconds / timed_steps if timed_steps else None,
        "avg_mfu": float((mfu[:, 1] * mfu[:, 2]).sum() / mfu_steps) if mfu_steps else None,
        "total_eval_steps": len(run.evaluations),
        "total_checkpoints": len(run.checkpoints),
        "tokens_seen": run.tokens_seen,
        "train_seconds": milliseconds / 1000 if timed_steps else None,
    }


def _floats(values: list[Any]) -> np.ndarray:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _weighted(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Sum of the known values times their weights, and the sum of these weights."""
    known = ~np.isnan(values)
    return float((values * weights)[known].sum()), float(weights[known].sum())


def render_document(document: dict[str, Any], steps: Sequence[str] | None = None) -> str:
    """Return the text of a document, one line a row, so that a person, grep and diff can read it too.

    Args:
        document: see :func:`build_document`, or with ``steps`` :func:`document_head`.
        steps: the text of its steps, where that is known already, see :func:`render_steps`.
    """
    parts = []
    for key, value in document.items():
        if isinstance(value, list):
            text = _render_list([dumps(row) for row in value])
        else:
            text = dumps(value, indent=2).replace("\n", "\n  ")
        parts.append(f"  {dumps(key)}: {text}")
    if steps is not None:
        parts.append(f"  {dumps(STEPS_KEY)}: {_render_list(steps)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def render_steps(steps: Steps) -> list[str]:
    """Return the text of each row of ``training_iterations``."""
    return [dumps(_training_iteration(row)) for row in steps.rows()]


def _render_list(rows: Sequence[str]) -> str:
    return "[\n    " + ",\n    ".join(rows) + "\n  ]" if rows else "[]"


def _training_iteration(row: dict[str, Any]) -> dict[str, Any]:
    """The seed's keys, always; then whatever else the row knows."""
    if row["steps"] == 1:
        del row["steps"]
    return {**_UNKNOWN_STEP, **row}


_UNKNOWN_STEP = dict.fromkeys(STEP_KEYS)


def _eval_steps(run: Run) -> list[dict[str, Any]]:
    iters, losses, lrs = run.column("iter"), run.column("loss"), run.column("lr")
    weights = np.where(np.isnan(losses), 0.0, run.column("steps"))
    losses = np.where(np.isnan(losses), 0.0, losses)
    rows = []
    place, last_iter = 0, None
    lr: float | None = None
    train_loss: float | None = None
    for evaluation in run.evaluations:
        end = max(int(np.searchsorted(iters, evaluation.iter, side="right")), place)
        weight = float(weights[place:end].sum())
        # A second evaluation at the same step (another data set, a final one) has the same training before it.
        if evaluation.iter != last_iter or weight:
            train_loss = float((losses * weights)[place:end].sum()) / weight if weight else None
        known = lrs[place:end][~np.isnan(lrs[place:end])]
        lr = float(known[-1]) if len(known) else lr
        place, last_iter = end, evaluation.iter
        own = {name: getattr(evaluation, name) for name in ("time_ms", "tokens_seen")}
        rows.append(
            {
                "iter": evaluation.iter,
                "train_loss": train_loss if evaluation.train_loss is None else evaluation.train_loss,
                "val_loss": evaluation.nll,
                "val_loss_stderr": evaluation.nll_stderr,
                "lr": lr if evaluation.lr is None else evaluation.lr,
                "timestamp": evaluation.time,
                **{name: value for name, value in own.items() if value is not None},
                **{name: value for name, value in evaluation.metrics.items() if name not in _EVAL_KEYS},
            }
        )
    return rows


_EVAL_KEYS = ("iter", "train_loss", "val_loss", "val_loss_stderr", "lr", "timestamp", "time_ms", "tokens_seen")


def _named(extra: dict[str, Any]) -> dict[str, Any]:
    """The further fields of a record, without the journal's envelope."""
    return {name: value for name, value in extra.items() if name not in ("type", "time")}
