"""Objectives that look like bounds: four that are none, and two that are looser ones.

Each is the right loss with one thing changed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...models.masked_diffusion.noise_schedule import NoiseSchedule
from ...objectives import Batch, MaskedDiffusionObjective, NoiseKey, ObjectiveOutput
from ...objectives.adaptive.bound import AdaptiveBound
from ...objectives.base import scored_mask
from ...objectives.masked_diffusion import Corruption
from ..protocols.laws import Law


class ScoredTokensObjective(MaskedDiffusionObjective):
    """Cross-entropies of the hidden tokens, summed and divided by the scored tokens: P0 without its 1/k. No bound."""

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        corruption = super().corrupt(scored_BL, key)
        return replace(corruption, weights_B=np.ones(len(corruption.weights_B)))


class ProtocolObjective(MaskedDiffusionObjective):
    """P0 with each draw of k hidden tokens times r(k), as the evaluation of another project has it (``protocols.laws``).

    Without what else tells that evaluation apart: the mask token's probability and a visible EOS.
    """

    def __init__(self, mask_token_id: int, law: Law, batch: int = 16) -> None:
        super().__init__(mask_token_id)
        self.law, self.batch = law, batch

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        corruption, length = super().corrupt(scored_BL, key), scored_BL.shape[1]
        ratios_B = self.law.ratios(length, self.batch)[corruption.masked_BL.sum(-1) - 1]
        return replace(corruption, weights_B=corruption.weights_B * ratios_B)


class DependentTokensObjective(MaskedDiffusionObjective):
    """P0 with one joint probability of all hidden tokens, p(x_M | z), in place of a product over positions. No bound.

    The joint one is made of the denoiser's own conditionals, from left to right: p(x_i | z, x_j of the hidden j < i). Each
    hidden token is worth its 1/k only while the others are hidden too; here the later ones see the earlier ones
    (Chao, Xu et al., "Dependency breaks validity of loss functions in masked diffusion models", 2026, on EDLM,
    arXiv 2410.21357, and MDM-Prime-v2, arXiv 2603.16077v1).
    """

    def __call__(
        self,
        model: Any,
        batch: Batch,
        key: NoiseKey,
        num_scored: int | torch.Tensor,
        device: torch.device | str = "cpu",
        accuracy: bool = False,
    ) -> ObjectiveOutput:
        corruption = self.corrupt(scored_mask(batch), key)
        masked_BL = torch.from_numpy(corruption.masked_BL)
        rows, length = masked_BL.shape
        # L readings of each sequence; in that of a position all hidden tokens before it are shown.
        hidden_BLL = masked_BL[:, None] & (torch.arange(length) >= torch.arange(length)[:, None])
        asked_BLL = masked_BL[:, None] & torch.eye(length, dtype=torch.bool)
        ids_BLL, labels_BLL = (batch[name][:, None].expand(rows, length, length) for name in ("input_ids", "labels"))
        outputs = model(
            input_ids=ids_BLL.masked_fill(hidden_BLL, self.mask_token_id).flatten(0, 1),
            labels=labels_BLL.masked_fill(~asked_BLL, -100).flatten(0, 1),
            loss_weights=torch.from_numpy(corruption.weights_B).repeat_interleave(length)[:, None],
            positions=asked_BLL.flatten().nonzero().squeeze(-1),
        )
        rows_N, columns_N = np.nonzero(corruption.masked_BL)
        return ObjectiveOutput(
            outputs.loss / num_scored, rows_N, columns_N, outputs.token_nll, corruption.weights_B[rows_N]
        )


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
