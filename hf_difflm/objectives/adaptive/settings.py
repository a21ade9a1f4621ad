"""The switches of adaptive masking, and which bound each setting of them needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import UserError, did_you_mean
from .curriculum import Curriculum
from .names import IMPORTANCES, MASKINGS

BOUNDS = {"p0": "nelbo", "p1": "nelbo_position", "p2": "nelbo_token_value", "p3": "nelbo_contextual"}
"""Name of the bound of each training objective."""

LEARNED_SHARE = 0.7
"""Of the importance in mode ``full``; the rest is the frequency prior."""


@dataclass(frozen=True)
class AdaptiveSettings:
    """What is adaptive.

    Args:
        importance: ``full`` (0.7 learned + 0.3 frequency prior), ``learned_only``, ``frequency_only`` or ``none``.
        masking: how importance changes the schedule: ``proportional`` (important tokens are masked earlier and revealed
            later), ``inverse``, ``balanced`` (from inverse to proportional as training goes on), ``time_only`` or ``none``
            (not at all).
        temperature: above 0; the higher, the nearer to uniform masking.
        position_bias: how much earlier the last token of a sequence is masked than the middle one, as a log of odds.
        curriculum: ``none``, a preset, or two shares of training, see :meth:`Curriculum.from_option`.
        curriculum_schedule: see :class:`Curriculum`.
        loss_weight: weight of the estimator's regression; it changes the estimator's learning alone.
        posterior_tilt: (P2) put the part of the posterior that is known by formula into the prediction,
            see :func:`~hf_difflm.objectives.adaptive.losses.token_value_log_mu`.

    Raises:
        UserError: an unknown name, or a number out of its range.
    """

    importance: str = "full"
    masking: str = "proportional"
    temperature: float = 1.0
    position_bias: float = 0.0
    curriculum: str = "none"
    curriculum_schedule: str = "linear"
    loss_weight: float = 0.1
    posterior_tilt: bool = True

    def __post_init__(self) -> None:
        for name, value, known in (
            ("importance", self.importance, IMPORTANCES),
            ("masking", self.masking, MASKINGS),
        ):
            if value not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}{did_you_mean(value, known)}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UserError(f"temperature must be above 0, got {self.temperature:g}; 1 is plain odds scaling")
        if not math.isfinite(self.position_bias):
            raise UserError(f"position_bias must be a finite number, got {self.position_bias}; 0 switches it off")
        if not (self.loss_weight >= 0 and math.isfinite(self.loss_weight)):
            raise UserError(f"importance_loss_weight must be 0 or more, got {self.loss_weight:g}")
        if self.make_curriculum() is not None and self.importance == "none":
            raise UserError(
                f"the curriculum {self.curriculum!r} orders tokens by their importance, but importance is none; choose "
                "frequency_only, learned_only or full, or curriculum none"
            )

    @property
    def learns(self) -> bool:
        """Whether there is an estimator to train."""
        return self.importance in ("full", "learned_only")

    @property
    def needs_counts(self) -> bool:
        """Whether the tokens of the training data must be counted."""
        return self.importance in ("full", "frequency_only")

    @property
    def form(self) -> str:
        """``p0`` ... ``p3``: the objective under which these schedules have a valid bound."""
        if self.importance == "none" or self.masking in ("time_only", "none"):
            return "p1" if self.position_bias else "p0"
        return "p3" if self.learns else "p2"

    @property
    def depends_on_progress(self) -> bool:
        """Whether the objective must be told how long training will be."""
        balanced = self.masking == "balanced" and self.form in ("p2", "p3")
        return balanced or self.make_curriculum() is not None

    def make_curriculum(self) -> Curriculum | None:
        """The curriculum the two options describe; None without one."""
        return Curriculum.from_option(self.curriculum, self.curriculum_schedule)
