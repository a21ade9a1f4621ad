"""P0: the NELBO of masked diffusion with uniform masking, in two forms of the same number.

Any-order form, exact (the default): for a sequence of L scored tokens draw k uniformly from 1..L and a k-subset M
uniformly; NELBO(x) = L E_k E_M [ (1/k) sum_{i in M} -log mu^i(x^i) ]  (the any-order view: arXiv 2110.02037, eq. 5;
arXiv 2406.03736, eq. 2.6). No 1/t blow-up, no smallest time, no discretisation.

Time form: NELBO(x) = E_{t, z_t} sum_i lambda_t 1[z_t^i = m] (-log mu^i(x^i)), tokens masked independently with probability
1 - alpha_t (MDLM, arXiv 2406.07524; MD4, arXiv 2406.04329).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from .base import Batch, NoiseKey, Objective, ObjectiveOutput, attention_mask_or_none, scored_mask, to_device
from .noise import row_uniforms, stratified_uniforms


@dataclass
class Corruption:
    """Which tokens of a batch are hidden, and what that costs.

    Args:
        masked_BL: (B, L) bool, the hidden tokens; scored tokens only.
        weights_B: (B,) float64, weight of each masked token's cross-entropy in the NELBO of its sequence.
        noise_level_B: (B,) sigma = -log alpha of each sequence.
        masking_rate_B: (B,) share of the scored tokens that is hidden.
    """

    masked_BL: np.ndarray
    weights_B: np.ndarray
    noise_level_B: np.ndarray
    masking_rate_B: np.ndarray


class MaskedDiffusionObjective(Objective):
    """The P0 NELBO.

    Args:
        mask_token_id: id of the mask token.
        loss_form: ``any_order`` (exact counts) or ``time`` (Bernoulli masks).
        noise_sampling: ``stratified`` over the whole optimiser batch, or ``iid``.
        schedule: noise schedule of the time form; the any-order form is the same number under every schedule.

    Raises:
        ValueError: an unknown form or sampling.
    """

    name = "mdlm"
    bound = "nelbo"
    stochastic = True

    def __init__(
        self,
        mask_token_id: int,
        loss_form: str = "any_order",
        noise_sampling: str = "stratified",
        schedule: NoiseSchedule | None = None,
    ):
        if loss_form not in ("any_order", "time"):
            raise ValueError(f"loss_form must be any_order or time, got {loss_form!r}")
        if noise_sampling not in ("stratified", "iid"):
            raise ValueError(f"noise_sampling must be stratified or iid, got {noise_sampling!r}")
        self.mask_token_id = mask_token_id
        self.loss_form = loss_form
        self.noise_sampling = noise_sampling
        self.schedule = schedule or NoiseSchedule()

    def for_evaluation(self) -> MaskedDiffusionObjective:
        """Exact counts, stratified: the form of P0 whose estimate varies least."""
        return MaskedDiffusionObjective(self.mask_token_id)

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        """Choose the masked tokens of each sequence; ``scored_BL`` is (B, L) bool. Pure in (key, scored_BL)."""
        counts_B = scored_BL.sum(-1)
        uniforms = row_uniforms(key, counts_B)
        stratified = self.noise_sampling == "stratified"
        u_B = stratified_uniforms(key) if stratified else np.array([row[0] for row in uniforms])
        # Numbers go to scored tokens in their order, so padding on either side changes nothing; inf is never masked.
        scores_BL = np.full(scored_BL.shape, np.inf)
        scores_BL[scored_BL] = np.concatenate([row[1:] for row in uniforms])
        if self.loss_form == "any_order":
            return self._exact_counts(u_B, scores_BL, counts_B)
        return self._bernoulli(u_B, scores_BL, counts_B)

    def _exact_counts(self, u_B: np.ndarray, scores_BL: np.ndarray, counts_B: np.ndarray) -> Corruption:
        # k = 1 + floor(u L); a sequence without scored tokens (k = 1 > L = 0) masks nothing: its scores are all inf.
        k_B = 1 + np.floor(u_B * counts_B).astype(np.int64)
        ranked_BL = np.sort(scores_BL, axis=-1)
        threshold_B1 = np.take_along_axis(ranked_BL, k_B[:, None] - 1, axis=-1)
        masked_BL = (scores_BL <= threshold_B1) & np.isfinite(scores_BL)
        # t := k / (L + 1), sigma = -log(1 - t)
        t_B = np.where(counts_B > 0, k_B / (counts_B + 1), 0.0)
        rate_B = np.where(counts_B > 0, k_B / np.maximum(counts_B, 1), 0.0)
        return Corruption(masked_BL, counts_B / k_B, -np.log1p(-t_B), rate_B)

    def _bernoulli(self, u_B: np.ndarray, scores_BL: np.ndarray, counts_B: np.ndarray) -> Corruption:
        t_B = torch.from_numpy(1.0 - u_B)  # in (0, 1]: the rate is infinite at 0
        p_B = self.schedule.mask_probability(t_B).numpy()
        masked_BL = scores_BL < p_B[:, None]
        with np.errstate(divide="ignore"):
            sigma_B = -np.log1p(-np.minimum(p_B, 1.0))
        rate_B = masked_BL.sum(-1) / np.maximum(counts_B, 1)
        return Corruption(masked_BL, self.schedule.rate(t_B).numpy(), sigma_B, rate_B)

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
        rows_N, columns_N = np.nonzero(corruption.masked_BL)
        mask = attention_mask_or_none(batch)
        outputs = model(
            input_ids=to_device(batch["input_ids"].masked_fill(masked_BL, self.mask_token_id), device),
            attention_mask=None if mask is None else to_device(mask, device),
            labels=to_device(batch["labels"].masked_fill(~masked_BL, -100), device),
            loss_weights=to_device(torch.from_numpy(corruption.weights_B).float().unsqueeze(-1), device),
            positions=to_device(torch.from_numpy(rows_N * masked_BL.shape[1] + columns_N), device),
            output_correct=accuracy,
        )
        return ObjectiveOutput(
            loss=outputs.loss / num_scored,
            rows_N=rows_N,
            columns_N=columns_N,
            token_nll_N=outputs.token_nll,
            token_weights_N=corruption.weights_B[rows_N],
            token_correct_N=outputs.token_correct,
            row_metrics={"noise_level": corruption.noise_level_B, "masking_rate": corruption.masking_rate_B},
        )
