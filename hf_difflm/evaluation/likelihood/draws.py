"""How many draws an evaluation takes: a fixed number, or until the standard error is as small as wished.

No heavy import in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UserError
from .standard_errors import standard_error_of_draws

FEWEST_REPLICATES = 4
"""With a target, so many replicates are drawn before the standard error is believed."""
MOST_REPLICATES = 128
"""With a target, an evaluation ends here unless told otherwise."""


@dataclass(frozen=True)
class Draws:
    """When an evaluation has drawn enough.

    With a target, replicates of the whole set go on until ``nll_stderr`` is at most the target. Stopping when the spread
    happens to be small has a price: the standard error of the K replicates at which it stopped is, in the mean, too small.
    For replicates with a normal distribution the 95 % interval by Student's t then covers the truth in 91 % of evaluations
    in the worst case with 4 replicates at least, in 93 % with 8 at least (simulated for targets that take 1 to 64
    replicates). The mean itself is unbiased where the distribution is symmetric, since its error does not go with the spread.

    Args:
        replicates: how many there are; with a target how many at least, and never fewer than :data:`FEWEST_REPLICATES`.
        target_stderr: wished standard error in nats per token; None where the number of replicates is fixed.
        max_replicates: most replicates; with a target only.

    Raises:
        UserError: numbers out of range, or that do not go together.
    """

    replicates: int = 8
    target_stderr: float | None = None
    max_replicates: int = MOST_REPLICATES

    def __post_init__(self) -> None:
        if self.replicates < 1:
            raise UserError(f"eval_replicates must be a positive integer, got {self.replicates}")
        if self.target_stderr is None:
            if self.max_replicates != MOST_REPLICATES:
                raise UserError(
                    f"max_eval_replicates {self.max_replicates} has no use without target_stderr: add that, or leave it out"
                )
            return
        if not 0 < self.target_stderr < math.inf:  # NaN, too
            raise UserError(f"target_stderr must be a number above 0, got {self.target_stderr}")
        if self.max_replicates < self.fewest:
            raise UserError(
                f"max_eval_replicates is {self.max_replicates}, fewer than the {self.fewest} draws that come before the "
                f"first look at target_stderr; raise it, or lower eval_replicates ({FEWEST_REPLICATES} at least)"
            )

    @property
    def fewest(self) -> int:
        """Replicates before the first look at the standard error; all of them where there is no target."""
        return self.replicates if self.target_stderr is None else max(self.replicates, FEWEST_REPLICATES)

    def next_pass(self, nll_K: Sequence[float], at_once: int = 1) -> range:
        """The replicates to draw next; empty where there are enough.

        Args:
            nll_K: means of the replicates so far, in nats per token.
            at_once: replicates that share a forward. Passes end at multiples of it, so that as many replicates are always
                drawn in the same forwards, whether a target or a number ended them.
        """
        drawn = len(nll_K)
        if self.target_stderr is None:
            return range(drawn, self.replicates)
        if drawn == 0:
            until = -(-self.fewest // at_once) * at_once
        else:
            # A spread that is no number does not become one.
            until = drawn + at_once if (standard_error_of_draws(nll_K) or 0.0) > self.target_stderr else drawn
        return range(drawn, min(until, self.max_replicates))
