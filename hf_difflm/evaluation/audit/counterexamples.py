"""Objectives that look like bounds: three that are none, and two that are looser ones.

All of them have been trained with, and each is the right loss with one thing left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...models.masked_diffusion.noise_schedule import NoiseSchedule
from ...objectives import MaskedDiffusionObjective, NoiseKey
from ...objectives.adaptive.bound import AdaptiveBound
from ...objectives.masked_diffusion import Corruption


class ScoredTokensObjective(MaskedDiffusionObjective):
    """Cross-entropies of the hidden tokens, summed and divided by the scored tokens: P0 without its 1/k. No bound."""

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        corruption = super().corrupt(scored_BL, key)
        return replace(corruption, weights_B=np.ones(len(corruption.weights_B)))


class UncorrectedTokenValueBound(AdaptiveBound):
    """P2's cross-entropy alone, without - lambda_x + sum_v lambda_v mu_v. No bound."""

    @staticmethod
    def token_value_correction(
        log_mu_NV: torch.Tensor, targets_N: torch.Tensor, r_NV: torch.Tensor, t_N: torch.Tensor
    ) -> torch.Tensor:
        """(N,) zeros."""
        return torch.zeros_like(t_N)


@dataclass(frozen=True)
class ReciprocalMaskProbability(NoiseSchedule):
    """A schedule whose hidden tokens weigh 1 / p_mask in place of lambda_t: right where p_mask = t, and nowhere else."""

    def rate(self, t: torch.Tensor) -> torch.Tensor:
        """1 / (1 - alpha(t))."""
        return 1.0 / self.mask_probability(t)


@dataclass(frozen=True)
class ReciprocalOneMinusCosine(ReciprocalMaskProbability):
    """The same under 1 - alpha = 1 - cos(pi t / 2), which several codebases call cosine. No bound."""

    def mask_probability(self, t: torch.Tensor) -> torch.Tensor:
        """2 sin^2(pi t / 4), without cancellation near 0."""
        return 2 * torch.sin(0.25 * math.pi * t) ** 2
