"""How many of a sequence's L scored tokens are hidden: k uniform on 1..L, or small k more often, which then count for less.

By importance: the mean of k cross-entropies out of L has a variance of about S^2 (1/k - 1/L), so most of the noise of the
any-order form is that of its small k. Draws are best given to the k in proportion to their standard deviation (Neyman's
allocation; Cochran, Sampling Techniques, section 5.5), with the weight 1 / (L p(k)), whose mean is 1, in front. In theory
that is p(k) ~ k^-1/2; but weights that vary let the differences between sequences through, and k^-1/3 is as good for
short texts and better for long ones (`benchmarks/evaluation_cost.py` measures what it gives). No weight is larger than
that of k = L, about 3/2. Strata cancel what the weights let through of what sequences have in common, so a few sequences
are better drawn uniformly.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

EXPONENT = 1 / 3
FEWEST_STRATA = 16
"""With fewer sequences the weights would bring more noise than they save."""


def uniform_counts(u_B: np.ndarray, scored_B: np.ndarray) -> np.ndarray:
    """(B,) int64 k = 1 + floor(u L), each of 1..L as often; 1 where L is 0. Arguments as below."""
    return 1 + np.floor(u_B * scored_B).astype(np.int64)


def counts_by_importance(u_B: np.ndarray, scored_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn uniform numbers into numbers of hidden tokens with p(k) ~ k^-1/3, k = 1..L.

    Args:
        u_B: (B,) in [0, 1); equal strata of it stay equally likely.
        scored_B: (B,) L, the tokens of each sequence that can be hidden.

    Returns:
        (B,) int64 k and (B,) float64 1 / (L p(k)), the weight of each draw; 1 and 1 where L is 0.
    """
    counts_B, weights_B = np.ones(len(u_B), dtype=np.int64), np.ones(len(u_B))
    for scored in np.unique(scored_B[scored_B > 0]).tolist():
        rows = scored_B == scored
        cumulated_K, weight_K = _law(scored)
        place_R = np.searchsorted(cumulated_K, u_B[rows], side="right")
        counts_B[rows], weights_B[rows] = 1 + place_R, weight_K[place_R]
    return counts_B, weights_B


@lru_cache(maxsize=4096)
def _law(scored: int) -> tuple[np.ndarray, np.ndarray]:
    """(L - 1,) upper ends of what belongs to k = 1..L-1, the rest being that of L; (L,) weights."""
    share_L = np.arange(1, scored + 1) ** -EXPONENT
    share_L /= share_L.sum()
    return np.cumsum(share_L)[:-1], 1 / (scored * share_L)
