"""Noise schedules of absorbing-state diffusion, by formula.

``alpha(t)`` is the probability that a token is still readable at time t: it falls from alpha(0) = 1 to alpha(1) = 0.
``rate(t)`` is the unmasking rate lambda_t = -alpha'(t) / (1 - alpha(t)), the weight of the cross-entropy in the time
form of the NELBO (MDLM, arXiv 2406.07524, eq. 10; MD4, arXiv 2406.04329, eq. 5). Whatever the schedule,
the integral of rate(t) * (1 - alpha(t)) over t is 1: each token is counted once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

SCHEDULES = ("loglinear", "linear", "cosine", "polynomial", "geometric")


@dataclass(frozen=True)
class NoiseSchedule:
    """One of the schedules of :data:`SCHEDULES`.

    ========== ===========================================================================
    name       1 - alpha(t)
    ========== ===========================================================================
    loglinear  t (the schedule of MDLM, sigma = -log(1 - t); "linear" is the same curve)
    cosine     sin(pi t / 2)
    polynomial t^w, w = ``exponent``
    geometric  from sigma(t) = sigma_min^(1-t) sigma_max^t and alpha = exp(-sigma), shifted and scaled so
               that alpha(0) = 1 and alpha(1) = 0
    ========== ===========================================================================

    Args:
        name: one of the names above.
        exponent: w of the polynomial schedule, above 0.
        sigma_min: least noise of the geometric schedule, above 0.
        sigma_max: most noise of the geometric schedule, above ``sigma_min``.

    Raises:
        ValueError: unknown name, or a parameter out of its range.
    """

    name: str = "loglinear"
    exponent: float = 2.0
    sigma_min: float = 1e-4
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"noise_schedule must be one of {', '.join(SCHEDULES)}, got {self.name!r}")
        if self.exponent <= 0:
            raise ValueError(f"schedule_exponent must be above 0, got {self.exponent}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"the geometric schedule needs 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}"
            )

    def mask_probability(self, t: torch.Tensor) -> torch.Tensor:
        """1 - alpha(t), computed without cancellation near 0. ``t``: any shape, in [0, 1]; returns the same shape."""
        if self.name in ("loglinear", "linear"):
            return t
        if self.name == "cosine":
            return torch.sin(0.5 * math.pi * t)
        if self.name == "polynomial":
            return t**self.exponent
        span = -math.expm1(self.sigma_min - self.sigma_max)  # 1 - exp(-(sigma_max - sigma_min)) scales it to [0, 1]
        return -torch.expm1(-self._excess(t)) / span

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """Probability that a token is still readable at time ``t`` (any shape, in [0, 1])."""
        return 1.0 - self.mask_probability(t)

    def rate(self, t: torch.Tensor) -> torch.Tensor:
        """lambda_t = -alpha'(t) / (1 - alpha(t)); infinite at t = 0. ``t``: any shape, in [0, 1]."""
        if self.name in ("loglinear", "linear"):
            return 1.0 / t
        if self.name == "cosine":
            return 0.5 * math.pi / torch.tan(0.5 * math.pi * t)
        if self.name == "polynomial":
            return self.exponent / t
        excess = self._excess(t)
        return (self.sigma_min + excess) * math.log(self.sigma_max / self.sigma_min) / torch.expm1(excess)

    def _excess(self, t: torch.Tensor) -> torch.Tensor:
        """sigma(t) - sigma_min of the geometric schedule; sigma(t) itself would lose the digits of a small t."""
        return self.sigma_min * torch.expm1(t * math.log(self.sigma_max / self.sigma_min))
