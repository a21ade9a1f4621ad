"""Any scalar of a log as a curve: of the steps, of the evaluations, or measured now and then."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from ..journal.measurements import numbers
from ..journal.quantities import MEASURED, quantity_in
from ..journal.run import Run
from ..journal.schema import EvaluationRecord
from .axes import evaluation_series, positions_at, step_series

# What people type, and the name in the log.
_ALIASES = {"learning_rate": "lr", "val_loss": "eval_loss"}
# Rewards are what a training of preferences is about; what only counts, or tells of the machine, comes last.
_REWARDS = re.compile(r"(^|[_/])rewards?([_/.]|$)")
_SPREADS = re.compile(r"(^|[_/])(std|frac|min|max)([_/]|$)")
_COUNTS = re.compile(r"(^|[_/])(num|total|runtime|percentage|memory|time)([_/]|$)|_per_second$|tokens")
_TELLING = (
    "grad_norm/attention",
    "grad_norm/mlp",
    "update_ratio/global",
    "throughput/step_time_ms",
    "grad_norm/embeddings",
    "throughput/host_memory_mb",
    "throughput/peak_memory_mb",
)


def scalar_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of all scalars that one of the runs has logged, those of the steps first."""
    names: dict[str, None] = {}
    for run in runs:
        names.update({name: None for name in run.steps.quantities if name not in ("iter", "steps")})
        names.update({name: None for name in MEASURED if name not in names and len(run.known(name))})
    for run in runs:
        names.update({name: None for record in run.evaluations for name in record.metrics if _has(record, name)})
        names.update({name: None for record in run.measurements for name in numbers(record)})
    return list(names)


def named(name: str) -> str:
    """Return what a scalar that somebody asks for is called in the log."""
    return _ALIASES.get(name, name)


def scalar_series(run: Run, name: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one scalar where it is known, as (x, y) of equal shape (n,); empty where the log does not have it."""
    if name in run.steps.quantities:
        return step_series(run, name, axis)
    x, y, _ = evaluation_series(run, axis, name)
    if len(y):
        return x, y
    if name in MEASURED:
        return step_series(run, name, axis)
    found = [(record.iter, known[name]) for record in run.measurements if name in (known := numbers(record))]
    steps, values = np.array(found, dtype=np.float64).reshape(-1, 2).T
    positions = positions_at(run, axis, steps)
    return (np.empty(0), np.empty(0)) if positions is None else (positions, values)


def other_scalars(run: Run, drawn: Collection[str] = ()) -> list[str]:
    """Return what another Trainer logs that we do not: of its steps, then of its evaluations; rewards first, counts last.

    An evaluation of what the steps have, too, is part of that. Of our own Trainers, whose scalars have pictures, nothing.

    Args:
        run: of any Trainer.
        drawn: names that have a picture already.
    """
    if run.objective is not None:
        return []
    steps = [name for name in run.steps.quantities if quantity_in(name, None) is None and name not in ("iter", "steps")]
    evaluated = dict.fromkeys(name for record in run.evaluations for name in record.metrics if _has(record, name))
    known = {"epoch", *steps, *run.steps.quantities, *(f"eval_{name}" for name in steps)}
    rest = [name for name in evaluated if name not in known and quantity_in(name, None) is None]
    names = [name for name in [*steps, *rest] if name not in drawn]
    return sorted(
        names, key=lambda name: (_COUNTS.search(name) is not None, _REWARDS.search(name) is None, _spread(name))
    )


def measured_scalars(run: Run) -> list[str]:
    """Return what the callbacks have measured at more than one step, the most telling first: to fill an empty panel."""
    seen = Counter(name for record in run.measurements for name in numbers(record))
    return [name for name in _TELLING if seen[name] > 1]


def _spread(name: str) -> bool:
    """Whether it tells how far something is spread: its mean comes first."""
    return _SPREADS.search(name) is not None


def _has(record: EvaluationRecord, name: str) -> bool:
    return record.number(name) is not None
