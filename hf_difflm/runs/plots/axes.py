"""What a curve can be drawn over: optimiser steps, epochs, scored tokens, model FLOPs or training time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..journal.run import Run


@dataclass(frozen=True)
class Axis:
    """One horizontal axis: its name on the command line and, with its unit, on the picture."""

    name: str
    label: str


AXES = {
    axis.name: axis
    for axis in (
        Axis("step", "optimiser step"),
        Axis("epoch", "epoch"),
        Axis("tokens", "scored tokens"),
        Axis("flops", "model FLOPs"),
        Axis("time", "training time (s)"),
    )
}
_COLUMNS = {"epoch": "epoch", "flops": "total_flops"}


def row_positions(run: Run, axis: str) -> np.ndarray | None:
    """Return where each step row lies on an axis, float64 of shape (rows,), or None where the log does not say.

    Tokens are counted, or else summed up from tokens/s. Time is the sum of step times in seconds: evaluation and saving
    are apart.
    """
    if axis == "step":
        return run.column("iter")
    if axis == "time":
        times = run.column("time_ms")
        return np.cumsum(np.nan_to_num(times) * run.column("steps")) / 1000 if np.isfinite(times).any() else None
    return _tokens(run) if axis == "tokens" else _known(run.column(_COLUMNS[axis]))


def step_series(run: Run, quantity: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one quantity of the steps where it is known, as (x, y) of equal shape (n,); empty where x is unknown.

    A log of evaluations alone has the training loss of each of them; what no row knows is as callbacks have measured it.
    """
    if quantity == "loss" and not len(run.steps):
        losses = [(record.iter, record.train_loss) for record in run.evaluations if record.train_loss is not None]
        steps, values = np.array(losses, dtype=np.float64).reshape(-1, 2).T
        x = _evaluation_positions(run, axis, steps)
        return (np.empty(0), np.empty(0)) if x is None else (x, values)
    x, y = row_positions(run, axis), run.column(quantity)
    if x is None:
        return np.empty(0), np.empty(0)
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        measured = run.known(quantity)
        at = positions_at(run, axis, measured[:, 0])
        return (np.empty(0), np.empty(0)) if at is None else (at, measured[:, 2])
    return (x, y) if known.all() else (x[known], y[known])


def evaluation_series(run: Run, axis: str, metric: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an evaluation metric over an axis as (x, y, standard error), each of shape (n,).

    Args:
        run: the run.
        axis: a key of :data:`AXES`.
        metric: name of the metric; the nll in nats per token by default. Its error is 0 where it is unknown.
    """
    found = [
        (record.iter, value, (record.nll_stderr if metric is None else record.number(f"{metric}_stderr")) or 0.0)
        for record in run.evaluations
        if (value := record.nll if metric is None else record.number(metric)) is not None
    ]
    steps, values, errors = np.array(found, dtype=np.float64).reshape(-1, 3).T
    x = _evaluation_positions(run, axis, steps)
    if x is None:
        return np.empty(0), np.empty(0), np.empty(0)
    return x, values, errors


def _evaluation_positions(run: Run, axis: str, steps: np.ndarray) -> np.ndarray | None:
    if axis == "tokens" and not len(run.steps):
        tokens = {record.iter: record.tokens_seen for record in run.evaluations}
        known = [tokens[int(step)] for step in steps]
        return None if None in known else np.array(known, dtype=np.float64)
    return positions_at(run, axis, steps)


def positions_at(run: Run, axis: str, steps: np.ndarray) -> np.ndarray | None:
    """Return where these optimiser steps lie on an axis, between two rows in proportion; None where unknown."""
    if axis == "step":
        return steps
    x = row_positions(run, axis)
    if x is None or not len(x):
        return None
    iters = run.column("iter")
    known = np.isfinite(x)
    # Nothing has been seen or spent at step 0, where an evaluation before training lies.
    return np.interp(steps, np.concatenate([[0.0], iters[known]]), np.concatenate([[0.0], x[known]]))


def _tokens(run: Run) -> np.ndarray | None:
    counted = _known(run.column("tokens_seen"))
    if counted is not None:
        return counted
    rates, times = run.column("tokens_per_sec"), run.column("time_ms")
    known = np.isfinite(rates) & np.isfinite(times)
    return np.cumsum(np.where(known, rates * times * run.column("steps") / 1000, 0.0)) if known.any() else None


def _known(values: np.ndarray) -> np.ndarray | None:
    return values if np.isfinite(values).any() else None
