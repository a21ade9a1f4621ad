"""How LLaDA's and Dream's evaluations mask a text of N scored tokens, and what that is of the bound.

The bound P0 is the sum over k = 1..N of (1/k) E_M [ sum_{i in M} -log mu^i(x^i) ], M a uniform k-subset. Each law here gives
the same sum with r(k)/k in place of 1/k, so that a draw of k hidden tokens divided by r(k) is one of P0.

``llada`` (arXiv 2502.09992, eq. 6 and appendix B.5; ``get_log_likelihood.py``): b masks are drawn together, of
x_j = k + j N/b tokens, j = 0..b-1, with k uniform on 1..N, rounded half to even and taken modulo N; weight N/x. Where j N/b
has halves, even counts come more often than odd ones: r(k) = N p(k).

``dream`` (arXiv 2508.15487, ``eval.py``): each token is hidden with probability p = 1e-3 + (1 - 1e-3) t, t spread over the b
draws by one offset; weight 1/p. With p uniform on [eps, 1] a k-subset weighs (1 - I_eps(k, N - k + 1)) / (1 - eps) times
what it does in P0, I being the regularised incomplete beta function: r(k) = P(Bin(N, eps) < k) / (1 - eps).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

EPS = 1e-3


class DrawnMasks(NamedTuple):
    """b masks of N scored tokens.

    ``masked_DN``: (b, N) bool, what is hidden; ``weights_D``: (b,) what each hidden token's cross-entropy counts;
    ``ratios_D``: (b,) r(k) of the k that are hidden.
    """

    masked_DN: np.ndarray
    weights_D: np.ndarray
    ratios_D: np.ndarray


class Law(ABC):
    """How one project masks a text.

    Attributes:
        title: what to call it.
        shows_eos: whether an EOS is put behind the text, seen and neither hidden nor scored; then the first token is never
            hidden either.
    """

    title: str
    shows_eos: bool

    @abstractmethod
    def why(self, lengths: Iterable[int], batch: int) -> str:
        """Why the sums over masks are not those of P0, of texts of so many scored tokens."""

    @abstractmethod
    def ratios(self, scored: int, batch: int) -> np.ndarray:
        """(N,) r(k) of k = 1..N."""

    @abstractmethod
    def draw(self, shared: float, scores_DN: np.ndarray) -> DrawnMasks:
        """Draw the masks of one batch from uniform numbers in [0, 1): one that they share and (b, N) of their own."""


class LladaLaw(Law):
    """See the module."""

    title, shows_eos = "LLaDA", False

    def why(self, lengths: Iterable[int], batch: int) -> str:
        if all(np.all(self.ratios(scored, batch) == 1) for scored in set(lengths)):
            return "none here: counts k + jL/b are uniform for these lengths"
        return "counts k + jL/b, rounded half to even, are not uniform"

    def ratios(self, scored: int, batch: int) -> np.ndarray:
        return _rounded_ratios(scored, batch)

    def draw(self, shared: float, scores_DN: np.ndarray) -> DrawnMasks:
        batch, scored = scores_DN.shape
        x_D = rounded_counts(1 + int(shared * scored), scored, batch)
        masked_DN = scores_DN.argsort(-1).argsort(-1) < x_D[:, None]
        return DrawnMasks(masked_DN, scored / x_D, self.ratios(scored, batch)[x_D - 1])


class DreamLaw(Law):
    """See the module."""

    title, shows_eos = "Dream", True

    def why(self, lengths: Iterable[int], batch: int) -> str:
        return f"tokens are hidden with probabilities from {EPS:g} to 1, not from 0"

    def ratios(self, scored: int, batch: int) -> np.ndarray:
        return _binomial_ratios(scored)

    def draw(self, shared: float, scores_DN: np.ndarray) -> DrawnMasks:
        batch, scored = scores_DN.shape
        p_D = EPS + (1 - EPS) * ((shared + np.arange(batch) / batch) % 1)
        masked_DN = scores_DN < p_D[:, None]
        # Of a draw that hides nothing nothing is counted.
        ratios_D = self.ratios(scored, batch)[np.maximum(masked_DN.sum(-1), 1) - 1]
        return DrawnMasks(masked_DN, 1 / p_D, ratios_D)


LAWS: dict[str, Law] = {"llada": LladaLaw(), "dream": DreamLaw()}


def rounded_counts(k: int, scored: int, batch: int) -> np.ndarray:
    """(b,) LLaDA's numbers of hidden tokens; in float32 as theirs, which where b is no power of 2 decides on halves."""
    spread_D = torch.linspace(float(k), k + (batch - 1) * (scored / batch), steps=batch)
    return (spread_D.round().long().numpy() - 1) % scored + 1


@lru_cache(maxsize=1024)
def _rounded_ratios(scored: int, batch: int) -> np.ndarray:
    counts = np.concatenate([rounded_counts(k, scored, batch) for k in range(1, scored + 1)])
    return np.bincount(counts - 1, minlength=scored) / batch


@lru_cache(maxsize=1024)
def _binomial_ratios(scored: int) -> np.ndarray:
    log_p_N = [
        math.lgamma(scored + 1) - math.lgamma(k + 1) - math.lgamma(scored - k + 1)
        + k * math.log(EPS) + (scored - k) * math.log1p(-EPS)
        for k in range(scored)
    ]  # fmt: skip
    return np.exp(log_p_N).cumsum() / (1 - EPS)
