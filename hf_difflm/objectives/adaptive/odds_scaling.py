"""Odds scaling: a noise schedule a token, from its importance.

logit(1 - alpha_t) = logit t + log r, so 1 - alpha_t = t r / (1 - t + t r) and lambda_t = 1 / (t (1 - t + t r)). r = 1 is the
linear schedule of P0, and every r > 0 keeps alpha_0 = 1 and alpha_1 = 0: at t = 1 all is masked. A token with r > 1 is
masked earlier in the forward process, so it is revealed later in the reverse one.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch

LOG_R_MAX = math.log(4.0)
"""Bound of abs(log r): no schedule is more than four times the odds of another's away from P0."""

_LEAST_IMPORTANCE = 1e-6  # a sigmoid may round to 0

Numbers = TypeVar("Numbers", np.ndarray, torch.Tensor)


def mask_probability(t: Numbers, r: Numbers) -> Numbers:
    """1 - alpha_t = t r / (1 - t + t r); ``t`` in [0, 1] and ``r`` above 0, of shapes that broadcast."""
    return t * r / slowness(t, r)


def rate(t: Numbers, r: Numbers) -> Numbers:
    """lambda_t = 1 / (t (1 - t + t r)), the rate at which a masked token is revealed; ``t`` in (0, 1]."""
    return 1.0 / (t * slowness(t, r))


def slowness(t: Numbers, r: Numbers) -> Numbers:
    """1 - t + t r = 1 / (t lambda_t): between 1 and r. Ratios of rates are ratios of it, finite for every t in [0, 1]."""
    return 1.0 - t + t * r


def exponent_at(masking: str, temperature: float, progress: float) -> float:
    """The exponent of r = (I / mean I)^exponent.

    Args:
        masking: ``proportional`` 1/temperature, ``inverse`` -1/temperature, ``balanced`` from -1/temperature at the start of
            training to 1/temperature at its end, ``time_only`` and ``none`` 0.
        temperature: above 0; the higher, the nearer to uniform masking.
        progress: share of training that is done, in [0, 1].

    Raises:
        ValueError: an unknown name.
    """
    strength = 1.0 / temperature
    if masking == "proportional":
        return strength
    if masking == "inverse":
        return -strength
    if masking == "balanced":
        return strength * (2.0 * progress - 1.0)
    if masking in ("time_only", "none"):
        return 0.0
    raise ValueError(f"unknown masking {masking!r}")


def log_odds(importance_BL: np.ndarray, exponent: float) -> np.ndarray:
    """exponent * log I, with I kept away from 0; same shape, float64."""
    return exponent * np.log(np.maximum(np.asarray(importance_BL, np.float64), _LEAST_IMPORTANCE))


def position_log_odds(scored_BL: np.ndarray, bias: float) -> np.ndarray:
    """(B, L) bias * (2 q - 1), q from 0 at the first scored token of a sequence to 1 at the last; 0 at context.

    It looks at the place and at the number of tokens, never at the tokens. Above 0, later tokens are masked earlier.
    """
    counts_B1 = scored_BL.sum(-1, keepdims=True)
    place_BL = np.cumsum(scored_BL, axis=-1) - 1
    q_BL = np.where(counts_B1 > 1, place_BL / np.maximum(counts_B1 - 1, 1), 0.5)
    return np.where(scored_BL, bias * (2.0 * q_BL - 1.0), 0.0)


def centred_r(log_odds_BL: np.ndarray, weights_BL: np.ndarray) -> np.ndarray:
    """(B, L) r, clamped to abs(log r) <= log 4, whose geometric mean over each row is 1.

    A row that the clamp does not touch is the plain r = exp(log odds) over its geometric mean. In the others the mean is
    that of the *clamped* values, found by bisection: a few extreme tokens would otherwise move the masking rate of all.

    Args:
        log_odds_BL: (B, L) log r up to a constant of the row.
        weights_BL: (B, L) weights of the geometric mean: which tokens are scored, or how often each occurs. r is 1
            wherever its row has no weight.
    """
    total_B1 = weights_BL.sum(-1, keepdims=True)
    share_BL = weights_BL / np.maximum(total_B1, 1e-300)
    centre_B1 = (share_BL * log_odds_BL).sum(-1, keepdims=True)
    shifted_BL = log_odds_BL - centre_B1
    rows = ((np.abs(shifted_BL) > LOG_R_MAX) & (weights_BL > 0)).any(-1)
    if rows.any():
        centre_B1[rows] = _clamped_centre(log_odds_BL[rows], share_BL[rows])
        shifted_BL = log_odds_BL - centre_B1
    log_r_BL = np.where(total_B1 > 0, shifted_BL.clip(-LOG_R_MAX, LOG_R_MAX), 0.0)
    return np.exp(log_r_BL)


def _clamped_centre(log_odds_BL: np.ndarray, share_BL: np.ndarray) -> np.ndarray:
    """(B, 1) c with a weighted mean of clip(log odds - c) of 0; the mean falls as c grows, from above 0 to below it."""
    weighed_BL = share_BL > 0
    low_B1 = np.where(weighed_BL, log_odds_BL, np.inf).min(-1, keepdims=True)
    high_B1 = np.where(weighed_BL, log_odds_BL, -np.inf).max(-1, keepdims=True)
    for _ in range(48):
        middle_B1 = (low_B1 + high_B1) / 2
        mean_B1 = (share_BL * (log_odds_BL - middle_B1).clip(-LOG_R_MAX, LOG_R_MAX)).sum(-1, keepdims=True)
        low_B1 = np.where(mean_B1 > 0, middle_B1, low_B1)
        high_B1 = np.where(mean_B1 > 0, high_B1, middle_B1)
    return (low_B1 + high_B1) / 2
