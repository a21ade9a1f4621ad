"""Which tokens are hidden when every token has a schedule of its own.

A mask that hides nothing costs nothing, so masks are drawn *given that at least one token is hidden*, and the cost is
weighed by the probability Q(t) of that. It is the same number, and the weight lambda Q of a token stays below about
4 times the length of its sequence, where lambda alone grows as 1/t and has no variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base import NoiseKey
from ..noise import row_uniforms, stratified_uniforms
from .odds_scaling import mask_probability, rate


@dataclass
class AdaptiveCorruption:
    """Which tokens of a batch are hidden, and what that costs.

    Args:
        scored_BL: (B, L) bool, the tokens that can be hidden.
        masked_BL: (B, L) bool, those that are.
        t_B: (B,) float64, the time of each sequence, in (0, 1].
        some_masked_B: (B,) float64, Q: the probability that a mask drawn at this time hides anything.
        r_BL: (B, L) float64, the odds ratio of each token's schedule; 1 is P0.
        weights_BL: (B, L) float64, Q lambda of each token: what -log mu of a hidden one weighs in the bound.
        noise_level_B: (B,) sigma = -log(1 - t).
        masking_rate_B: (B,) share of the scored tokens that is hidden.
    """

    scored_BL: np.ndarray
    masked_BL: np.ndarray
    t_B: np.ndarray
    some_masked_B: np.ndarray
    r_BL: np.ndarray
    weights_BL: np.ndarray
    noise_level_B: np.ndarray
    masking_rate_B: np.ndarray


def draw(scored_BL: np.ndarray, key: NoiseKey, stratified: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Times and scores, from the very numbers that P0 uses for the same key.

    Args:
        scored_BL: (B, L) bool.
        key: names the noise.
        stratified: whether the times are spread evenly over the optimiser batch.

    Returns:
        t_B (B,) in (0, 1], and scores_BL (B, L) in [0, 1), infinite at context: padding on either side changes nothing.
    """
    uniforms = row_uniforms(key, scored_BL.sum(-1))
    u_B = stratified_uniforms(key) if stratified else np.array([row[0] for row in uniforms])
    scores_BL = np.full(scored_BL.shape, np.inf)
    scores_BL[scored_BL] = np.concatenate([row[1:] for row in uniforms])
    return 1.0 - u_B, scores_BL


def corrupt(scored_BL: np.ndarray, r_BL: np.ndarray, t_B: np.ndarray, scores_BL: np.ndarray) -> AdaptiveCorruption:
    """Hide tokens at time ``t_B`` under the schedules ``r_BL``. Pure; see :class:`AdaptiveCorruption`."""
    t_B1 = t_B[:, None]
    p_BL = np.where(scored_BL, mask_probability(t_B1, r_BL), 0.0)
    masked_BL, some_B = masks_given_one(p_BL, scores_BL)
    with np.errstate(divide="ignore"):
        sigma_B = -np.log1p(-t_B)
    return AdaptiveCorruption(
        scored_BL=scored_BL,
        masked_BL=masked_BL,
        t_B=t_B,
        some_masked_B=some_B,
        r_BL=r_BL,
        weights_BL=some_B[:, None] * rate(t_B1, r_BL),
        noise_level_B=sigma_B,
        masking_rate_B=masked_BL.sum(-1) / np.maximum(scored_BL.sum(-1), 1),
    )


def masks_given_one(p_BL: np.ndarray, scores_BL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Independent masks of probability ``p_BL``, given that each row masks something.

    From left to right: while nothing is masked yet, token j is with probability p_j / Q_j, where Q_j is the probability
    that something from j on is; after the first, the tokens are independent again.

    Args:
        p_BL: (B, L) probabilities; 0 where a token must not be masked.
        scores_BL: (B, L) independent uniform numbers in [0, 1).

    Returns:
        masked_BL (B, L) bool; all False in a row without probabilities. And (B,) the probability that something is masked.
    """
    with np.errstate(divide="ignore"):
        log_none_BL = np.log1p(-p_BL)
    some_BL = -np.expm1(np.cumsum(log_none_BL[:, ::-1], axis=-1)[:, ::-1])
    hazard_BL = np.divide(p_BL, some_BL, out=np.zeros_like(p_BL), where=some_BL > 0)
    last_BL = (np.cumsum(p_BL[:, ::-1] > 0, axis=-1)[:, ::-1] == 1) & (p_BL > 0)
    hazard_BL[last_BL] = np.inf  # 1 up to rounding: the last chance is taken
    starts_BL = scores_BL < hazard_BL
    first_B1 = starts_BL.argmax(-1)[:, None]
    places_L = np.arange(p_BL.shape[1])
    masked_BL = (places_L == first_B1) | ((places_L > first_B1) & (scores_BL < p_BL))
    return masked_BL & starts_BL.any(-1)[:, None], some_BL[:, 0]
