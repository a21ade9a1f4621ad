"""What a check of a run found: a tick, a cross, or nothing that can be said yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..journal.run import Run

PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"
MARKS = {PASSED: "✓", FAILED: "✗", UNKNOWN: "–"}

FEW = 20
"""Rows below which nothing is said of what is random."""
FEW_FOR_TRENDS = 100
"""Rows below which a trend that is not seen may still come."""
SURE = 5.0
"""Standard errors beyond which a deviation is no chance: 6 in 10 million."""
TREND = 3.0
"""Standard errors beyond which a trend is none by chance."""


@dataclass(frozen=True)
class Check:
    """One line of the checklist.

    Attributes:
        name: what was looked at.
        outcome: ``passed``, ``failed``, or ``unknown`` where it does not apply or the log does not say enough.
        finding: what was found, with the numbers.
        advice: what to do; empty where nothing is to be done.
    """

    name: str
    outcome: str
    finding: str
    advice: str = ""

    def to_text(self) -> str:
        """The line as people read it."""
        return f"{MARKS[self.outcome]} {self.name}: {self.finding}" + (f"; {self.advice}" if self.advice else "")


def passed(name: str, finding: str) -> Check:
    """All is well."""
    return Check(name, PASSED, finding)


def failed(name: str, finding: str, advice: str) -> Check:
    """Something is wrong, and this is what to do."""
    return Check(name, FAILED, finding, advice)


def unknown(name: str, finding: str) -> Check:
    """It does not apply, or the log does not say enough."""
    return Check(name, UNKNOWN, finding)


def judged(name: str, fine: bool, finding: str, advice: str) -> Check:
    """Passed or failed; the advice is for the failed."""
    return passed(name, finding) if fine else failed(name, finding, advice)


def known_rows(run: Run, *names: str) -> np.ndarray:
    """(rows, 1 + names) float64: ``iter`` and the quantities, of the rows that know them all; of one, see ``Run.known``."""
    if len(names) == 1:
        return run.known(names[0])[:, [0, 2]]
    table = np.stack([run.column(name) for name in ("iter", *names)], axis=1)
    return table[np.isfinite(table).all(1)]


def ends(values: np.ndarray, share: float = 0.1) -> tuple[float, float, float]:
    """Mean of the first and of the last rows, and the standard error of their difference.

    Args:
        values: (rows,), at least four.
        share: of the rows at each end; at least two rows.
    """
    count = max(2, round(share * len(values)))
    first, last = values[:count], values[-count:]
    error = float(np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / count))
    return float(first.mean()), float(last.mean()), error


def falling(run: Run, quantity: str, name: str, advice: str) -> Check:
    """Whether a quantity of the steps is lower at the end than at the start, beyond chance."""
    values = known_rows(run, quantity)[:, 1]
    if len(values) < FEW:
        return unknown(name, f"too early to tell: {len(values)} steps logged, {FEW} are needed")
    first, last, error = ends(values)
    finding = f"{first:.4f} in the first tenth, {last:.4f} ± {error:.4f} in the last"
    if first - last > TREND * error:
        return passed(name, finding)
    if len(values) < FEW_FOR_TRENDS and last - first <= TREND * error:
        return unknown(name, f"{finding}: not clear yet")
    return failed(name, finding, advice)


def setting(run: Run, name: str) -> float | None:
    """A setting of the run where it is a number, else None."""
    value: Any = run.config.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def planned_steps(run: Run) -> int | None:
    """Optimiser steps the whole training has, where the log says so: by its settings, or because it is complete."""
    steps = setting(run, "max_steps")
    if steps is not None and steps > 0:
        return int(steps)
    return run.last_step if run.status == "completed" else None


def warmup_steps(run: Run, planned: int | None) -> int | None:
    """Steps of the warm-up, where the log says so."""
    given = setting(run, "warmup_steps")
    if given is None or given >= 1 or given == 0:
        return None if given is None else int(given)
    return None if planned is None else int(np.ceil(given * planned))
