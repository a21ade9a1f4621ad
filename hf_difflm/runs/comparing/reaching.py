"""How much training a run took until an evaluation was at or below a value."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..journal.run import Run


@dataclass(frozen=True)
class Reached:
    """What was spent until then: scored training tokens and model FLOPs (None where the log does not count them)."""

    tokens: float
    flops: float | None


def reached(run: Run, nll: float) -> Reached | None:
    """What ``run`` had spent at its first evaluation at or below ``nll``, in nats/token; None where there is none.

    The schedule of the run may end later: one that ends there can do with less.
    """
    found = [record.iter for record in run.evaluations if record.nll is not None and record.nll <= nll]
    steps = run.column("iter")
    if not found or not np.isfinite(steps).all() or not len(steps):
        return None
    place = int(np.searchsorted(steps, min(found), side="right")) - 1
    if place < 0:
        return Reached(0.0, 0.0)
    tokens, flops = (float(run.column(name)[place]) for name in ("tokens_seen", "total_flops"))
    return Reached(tokens, None if np.isnan(flops) else flops) if np.isfinite(tokens) else None


def median_reached(runs: Iterable[Run], nll: float) -> Reached | None:
    """The medians over several runs; None where one of them never comes so low."""
    each = [reached(run, nll) for run in runs]
    if not each or any(one is None for one in each):
        return None
    known = [one for one in each if one is not None]
    flops = [one.flops for one in known if one.flops is not None]
    return Reached(
        statistics.median(one.tokens for one in known), statistics.median(flops) if len(flops) == len(known) else None
    )
