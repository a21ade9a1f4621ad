"""The two errors of an evaluation: of the noise that was drawn, and of the texts that happened to be in the set.

No heavy import in here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def standard_error_of_draws(nll_K: Sequence[float]) -> float | None:
    """Standard error of the mean of K independent replicates; None with fewer than two."""
    if len(nll_K) < 2:
        return None
    if not all(map(math.isfinite, nll_K)):
        return math.nan
    return statistics.stdev(nll_K) / math.sqrt(len(nll_K))


def standard_error_of_data(nll: float, unit_nll: np.ndarray, unit_tokens: np.ndarray) -> float | None:
    """Standard error of nats per token over units drawn independently; None with fewer than two.

    A ratio of two sums: the residuals nll_u - nll * tokens_u are what varies (Cochran, Sampling Techniques, section 6.4).

    Args:
        nll: of all units, in nats per token.
        unit_nll: (U,) nll of each document or block, in nats.
        unit_tokens: (U,) its scored tokens.
    """
    units, tokens = len(unit_tokens), int(unit_tokens.sum())
    if units < 2:
        return None
    residual_U = unit_nll - nll * unit_tokens
    return float(math.sqrt(units / (units - 1) * (residual_U**2).sum()) / tokens)
