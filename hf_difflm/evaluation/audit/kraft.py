"""The Kraft test: if u(x) >= -log p(x) for one normalised p, then sum_x exp(-u(x)) <= 1; and the other way round.

So a sum above 1 refutes "u is an upper bound on an nll" for good, and a sum of 1 at most shows it for one denoiser. Where
u has noise, exp(-mean) makes the sum too large in expectation; leaving out one replicate after the other (the jackknife)
takes that away to first order and gives a standard error, by which the sum is judged.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-6
"""How far above 1 rounding may bring a sum."""
LEVEL = 0.01
"""Chance that noise alone refutes one of the denoisers of an audit of a bound that is none too loose."""
WIDEST = 0.1
"""Half an interval that says nothing any more."""


@dataclass(frozen=True)
class KraftSum:
    """A sum over all sequences for one denoiser.

    Args:
        value: sum of exp(-u).
        half_width: of its interval: 0 where u is exact.
    """

    value: float
    half_width: float = 0.0

    @property
    def refutes(self) -> bool:
        """Whether it is above 1 beyond its interval."""
        return self.value - self.half_width > 1 + TOLERANCE

    @property
    def is_known(self) -> bool:
        """Whether its interval is narrow enough to say anything."""
        return math.isfinite(self.value) and self.half_width <= WIDEST

    def __str__(self) -> str:
        if self.half_width:
            return f"{self.value:.3f} ± {self.half_width:.3f}"
        return f"{self.value:.6f}" if self.value > 1e-3 else f"{self.value:.3g}"


def kraft_sums(values_RDS: np.ndarray, denoisers: int) -> list[KraftSum]:
    """One sum a denoiser.

    Args:
        values_RDS: nats of each sequence; one replicate: exact.
        denoisers: how many are looked at in all, so that all intervals together hold with probability 1 - ``LEVEL``.
    """
    replicates = len(values_RDS)
    mean_DS = values_RDS.mean(0)
    sums_D = np.exp(-mean_DS).sum(-1)
    if replicates == 1:
        return [KraftSum(float(value)) for value in sums_D]
    left_out_RD = np.exp(-(replicates * mean_DS - values_RDS) / (replicates - 1)).sum(-1)
    middle_D = left_out_RD.mean(0)
    unbiased_D = replicates * sums_D - (replicates - 1) * middle_D
    stderr_D = np.sqrt((replicates - 1) / replicates * ((left_out_RD - middle_D) ** 2).sum(0))
    width = deviations(denoisers)
    return [KraftSum(float(value), float(width * error)) for value, error in zip(unbiased_D, stderr_D, strict=True)]


def deviations(intervals: int) -> float:
    """Standard errors to either side, so that so many intervals all hold with probability 1 - ``LEVEL``."""
    return statistics.NormalDist().inv_cdf(1 - LEVEL / 2 / intervals)


@dataclass(frozen=True)
class Verdict:
    """What an audit ends with: ``outcome`` is "bound", "not a bound" or "cannot be told"; ``sentence`` says it all."""

    outcome: str
    sentence: str

    @property
    def exit_code(self) -> int:
        """0 for a bound, else 1."""
        return 0 if self.outcome == "bound" else 1


def judge(sums: list[KraftSum], sequences: int, untold: str | None = None) -> Verdict:
    """The verdict on a number from its sums.

    Args:
        sums: of all denoisers.
        sequences: V^L.
        untold: why nothing can be told, if nothing is refuted.
    """
    worst = max((one for one in sums if one.refutes), key=lambda one: one.value - one.half_width, default=None)
    if worst is not None:
        shown = f"{worst.value:.2f}" if worst.half_width == 0 and worst.value >= 1.005 else str(worst)
        return Verdict("not a bound", f"not a bound: sums to {shown}")
    if untold is None and (wide := [one for one in sums if not one.is_known]):
        untold = (
            f"the sum of one denoiser is {wide[0]}, which is on both sides of 1 and too wide; give more --replicates"
        )
    if untold is not None:
        return Verdict("cannot be told", f"cannot be told here: {untold}")
    many = f"{len(sums)} denoiser{'s' if len(sums) > 1 else ''}"
    return Verdict("bound", f"bound: no counterexample in {many} at V^L = {sequences}")
