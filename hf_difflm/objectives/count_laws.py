"""How many of a sequence's L scored tokens are hidden: the law p(k) of k on 1..L, and what a hidden token then weighs.

What is *reported* has k uniform and the weight L / k (P0). Training may draw k by any law p(k) > 0 and give a hidden token
any weight w(k) > 0: the denoiser that is right, p(x_i | what is shown), minimises the cross-entropy of every k by itself, so
both only move effort between the k and change the noise of the gradient. With ``nelbo`` weights 1 / (k p(k)) the expected
gradient is that of P0 under every law; with other weights another mixture of the same cross-entropies is minimised. All
weights have E[k w(k)] = L, so that learning rates and clipping mean the same.

``importance``: the mean of k cross-entropies out of L has a variance of about S^2 (1/k - 1/L), so most of the noise of P0 is
that of its small k. Draws are best given to the k in proportion to their standard deviation (Neyman's allocation; Cochran,
Sampling Techniques, section 5.5). In theory that is p(k) ~ k^-1/2; but weights that vary let the differences between
sequences through, and k^-1/3 is as good for short texts and better for long ones (`benchmarks/evaluation_cost.py`). Its
weight is largest at k = L, about 3/2. Strata cancel what the weights let through of what sequences have in common, so an
evaluation of a few sequences is better drawn uniformly.

``bell``: a normal density over the rate (k - 1/2) / L, and uniform for a share of the draws. Bell-shaped times are those of
arXiv 2605.13026.

``optimal``: Neyman's allocation of the gradient itself, from its second moments as they are measured (`gradient_moments.py`),
and uniform for a tenth of the draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .names import COUNT_LAWS, weight_power

FEWEST_STRATA = 16
"""With fewer sequences the weights of an evaluation would bring more noise than they save."""
MOMENT_BINS = 16
_MEASURED_UNIFORM = 0.1


@dataclass(frozen=True)
class CountLaw:
    """A law p(k) on the number of hidden tokens.

    Args:
        name: ``uniform``, ``importance``, ``bell`` or ``optimal``.
        exponent: of ``importance``: p(k) ~ k^-exponent.
        centre, width: of ``bell``: mean and standard deviation of the rate.
        uniform_share: of ``bell``: share of the draws that are uniform.
        moments: of ``optimal``: (16,) second moments of a hidden token's gradient by rate, from 0 to 1; (): all alike.

    Raises:
        ValueError: an unknown name.
    """

    name: str = "uniform"
    exponent: float = 1 / 3
    centre: float = 0.4
    width: float = 0.2
    uniform_share: float = 0.1
    moments: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in COUNT_LAWS:
            raise ValueError(f"count_law must be one of {', '.join(COUNT_LAWS)}, got {self.name!r}")

    def probabilities(self, scored: int) -> np.ndarray:
        """(L,) p(k) of k = 1..L."""
        k_L = np.arange(1, scored + 1)
        if self.name == "importance":
            return _normalised(k_L**-self.exponent)
        rate_L, uniform = (k_L - 0.5) / scored, 1 / scored
        if self.name == "bell":
            bell_L = _normalised(np.exp(-0.5 * ((rate_L - self.centre) / self.width) ** 2))
            return self.uniform_share * uniform + (1 - self.uniform_share) * bell_L
        if self.name == "optimal":
            moments = self.moments or (1.0,) * MOMENT_BINS
            bins = (np.arange(MOMENT_BINS) + 0.5) / MOMENT_BINS
            # (L / k) times a sum of k gradients, as if they were independent.
            needed_L = _normalised(np.sqrt(np.interp(rate_L, bins, moments) / k_L))
            return _MEASURED_UNIFORM * uniform + (1 - _MEASURED_UNIFORM) * needed_L
        return np.full(scored, uniform)

    def describe(self) -> str:
        """The law and its parameters, as ``bell(0.4, 0.2, 0.1)``."""
        said = {"importance": (self.exponent,), "bell": (self.centre, self.width, self.uniform_share)}
        numbers = ", ".join(f"{number:.3g}" for number in said.get(self.name, ()))
        return f"{self.name}({numbers})" if numbers else self.name


class DrawnCounts(NamedTuple):
    """(B,) each: int64 k; float64 weight of a hidden token in the loss of its sequence; float64 1 / (L p(k)), what a draw
    weighs in means over uniform draws. k is 1 where L is 0."""

    k_B: np.ndarray
    token_weights_B: np.ndarray
    draw_weights_B: np.ndarray


def draw_counts(law: CountLaw, loss_weight: str, u_B: np.ndarray, scored_B: np.ndarray) -> DrawnCounts:
    """Turn uniform numbers into numbers of hidden tokens; equal strata of them stay equally likely.

    Args:
        law: p(k).
        loss_weight: ``nelbo``: 1 / (k p(k)); ``flat`` or a power q: ~ k^-q.
        u_B: (B,) in [0, 1).
        scored_B: (B,) L, the tokens of each sequence that can be hidden.
    """
    is_uniform = law.name == "uniform"
    k_B = 1 + np.floor(u_B * scored_B).astype(np.int64) if is_uniform else np.ones(len(u_B), dtype=np.int64)
    if is_uniform and loss_weight == "nelbo":  # the default, which needs no table
        return DrawnCounts(k_B, scored_B / k_B, np.ones(len(k_B)))
    token_weights_B, draw_weights_B = np.ones(len(u_B)), np.ones(len(u_B))
    for scored in np.unique(scored_B[scored_B > 0]).tolist():
        rows, table = scored_B == scored, _table(law, loss_weight, scored)
        if not is_uniform:
            k_B[rows] += np.searchsorted(table.cumulated_K, u_B[rows], side="right")
        token_weights_B[rows], draw_weights_B[rows] = table.token_L[k_B[rows] - 1], table.draw_L[k_B[rows] - 1]
    return DrawnCounts(k_B, token_weights_B, draw_weights_B)


def most_of_a_stratum(law: CountLaw, scored: int, size: int) -> np.ndarray:
    """(size,) the most tokens that a number in each of ``size`` equal strata of [0, 1) hides."""
    ends = np.arange(1, size + 1) / size  # which a number just below may be rounded to
    return 1 + np.searchsorted(_table(law, "nelbo", scored).cumulated_K, ends, side="right")


class _Table(NamedTuple):
    cumulated_K: np.ndarray  # (L - 1,) upper ends of what belongs to k = 1..L-1, the rest being that of L
    token_L: np.ndarray
    draw_L: np.ndarray


@lru_cache(maxsize=4096)
def _table(law: CountLaw, loss_weight: str, scored: int) -> _Table:
    p_L, k_L = law.probabilities(scored), np.arange(1, scored + 1)
    draw_L = 1 / (scored * p_L)
    if (power := weight_power(loss_weight)) is None:
        token_L = draw_L * (scored / k_L)
    else:
        token_L = scored * k_L**-power / (p_L @ k_L ** (1 - power))
    return _Table(np.cumsum(p_L)[:-1], token_L, draw_L)


def _normalised(values: np.ndarray) -> np.ndarray:
    return values / values.sum()
