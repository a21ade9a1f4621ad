"""A curriculum over tokens: easy ones first, then medium ones, at last the true objective.

It weighs the loss of each token; which tokens are hidden does not change. The weights have mean 1 over the scored tokens of
each sequence, and are exactly 1 in the last stage. Everything is a function of the share of training that is done,
so a resumed run is in the right stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...errors import UserError, did_you_mean
from .names import CURRICULUM_SCHEDULES

STAGES = ("easy", "medium", "hard")
PRESETS = {"thirds": (1 / 3, 2 / 3), "30-70": (0.3, 0.7), "early": (0.1, 0.3), "late": (0.5, 0.9)}

_EASY_SHARE = 1 / 3  # of the tokens of a sequence that weigh in full at the very start
_FLOOR = 0.1  # of the full weight: what a token that is too hard for now keeps
_SLOPE = 0.2  # in quantiles: how far above the level the weight has fallen to nothing but the floor
_ALIKE = 0.01  # in importance: values that differ by less have no order
_GROWTH = 6.0  # exponential: half way to the last stage the pace is 1 / (1 + e^3) = 0.047


@dataclass(frozen=True)
class Curriculum:
    """When the stages change and how the hard tokens come in.

    Args:
        boundaries: shares of training at which the medium and the hard stage begin, 0 <= a <= b < 1.
        schedule: ``linear`` (hard tokens come in evenly), ``step`` (only where a stage begins) or ``exponential`` (hardly any
            at first, most of them shortly before the last stage).

    Raises:
        UserError: an unknown schedule, or boundaries out of order.
    """

    boundaries: tuple[float, float] = PRESETS["thirds"]
    schedule: str = "linear"

    def __post_init__(self) -> None:
        if self.schedule not in CURRICULUM_SCHEDULES:
            raise UserError(
                f"curriculum_schedule must be one of {', '.join(CURRICULUM_SCHEDULES)}, got {self.schedule!r}"
                f"{did_you_mean(self.schedule, CURRICULUM_SCHEDULES)}"
            )
        medium, hard = self.boundaries
        if not 0 <= medium <= hard < 1:
            raise UserError(
                f"the curriculum boundaries are {medium:g} and {hard:g}; give two shares of training in order, from 0 to "
                "below 1, so that the last stage trains the true objective"
            )

    @classmethod
    def from_option(cls, option: str, schedule: str = "linear") -> Curriculum | None:
        """The curriculum a flag names: a preset, two shares as in ``0.2,0.6``, or ``none``.

        Raises:
            UserError: neither a preset nor two numbers.
        """
        if option == "none":
            return None
        if option in PRESETS:
            return cls(PRESETS[option], schedule)
        try:
            medium, hard = (float(part) for part in option.replace("/", ",").split(","))
        except ValueError as error:
            names = ("none", *PRESETS)
            raise UserError(
                f"curriculum must be one of {', '.join(names)}, or two shares of training such as 0.2,0.6, got {option!r}"
                f"{did_you_mean(option, names)}"
            ) from error
        return cls((medium, hard), schedule)

    def stage(self, progress: float) -> int:
        """1 (easy), 2 (medium) or 3 (hard) at ``progress`` in [0, 1]."""
        return 1 + sum(progress >= boundary for boundary in self.boundaries)

    def pace(self, progress: float) -> float:
        """How much of the hard text has come in: from 0 at the start to 1, exactly, in the last stage; never falls."""
        stage = self.stage(progress)
        if stage == 3:
            return 1.0
        if self.schedule == "step":
            return 0.5 * (stage - 1)
        start, end = (0.0, self.boundaries[0]) if stage == 1 else self.boundaries
        even = 0.5 * (stage - 1) + 0.5 * (progress - start) / (end - start)
        return even if self.schedule == "linear" else math.expm1(_GROWTH * even) / math.expm1(_GROWTH)

    def weights(self, difficulty_BL: np.ndarray, scored_BL: np.ndarray, progress: float) -> np.ndarray:
        """(B, L) float64 weights of the tokens' losses: mean 1 over the scored tokens of each sequence, 0 at context.

        Tokens count in full up to a level of difficulty that rises with the pace, from the easiest third of each sequence to
        all of it. Only the order of the difficulties within a sequence matters; equal ones weigh the same, and where all
        are nearly alike, as before the estimator has learned anything, so do all.

        Args:
            difficulty_BL: (B, L) in [0, 1], what orders tokens from easy to hard.
            scored_BL: (B, L) bool.
            progress: share of training that is done, in [0, 1].
        """
        pace = self.pace(progress)
        if pace == 1.0:
            return scored_BL.astype(np.float64)
        level = 1.0 - (1.0 - _EASY_SHARE) * (1.0 - pace)
        raw_BL = (1.0 - (quantiles(difficulty_BL, scored_BL) - level) / _SLOPE).clip(_FLOOR, 1.0) * scored_BL
        return raw_BL * (scored_BL.sum(-1, keepdims=True) / np.maximum(raw_BL.sum(-1, keepdims=True), 1e-300))


def quantiles(values_BL: np.ndarray, scored_BL: np.ndarray) -> np.ndarray:
    """(B, L) share of the scored tokens of a row that lie below each of them; 0 at context.

    An equal one counts half; one that is nearly as large counts in between, in proportion to the difference. So the shares
    are a continuous function of the values: what rounds differently on another machine changes them by next to nothing.
    """
    found_BL = np.zeros(values_BL.shape)
    for found_L, values_L, scored_L in zip(found_BL, values_BL, scored_BL, strict=True):
        values_K = values_L[scored_L]
        ordered_K = np.sort(values_K)
        sums_K = np.concatenate([[0.0], np.cumsum(ordered_K)])
        below_K = np.searchsorted(ordered_K, values_K - _ALIKE, "left")
        near_K = np.searchsorted(ordered_K, values_K + _ALIKE, "right")
        # Each of those in between counts (value - other) / (2 alike) + 1/2.
        count_K, total_K = near_K - below_K, sums_K[near_K] - sums_K[below_K]
        between_K = (count_K * values_K - total_K) / (2 * _ALIKE) + count_K / 2
        found_L[scored_L] = (below_K + between_K) / max(len(values_K), 1)
    return found_BL
