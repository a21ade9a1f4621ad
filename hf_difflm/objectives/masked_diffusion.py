"""P0: the NELBO of masked diffusion with uniform masking, in two forms of the same number.

Any-order form, exact (the default): for a sequence of L scored tokens draw k uniformly from 1..L and a k-subset M
uniformly; NELBO(x) = L E_k E_M [ (1/k) sum_{i in M} -log mu^i(x^i) ]  (the any-order view: arXiv 2110.02037, eq. 5;
arXiv 2406.03736, eq. 2.6). No 1/t blow-up, no smallest time, no discretisation.

In complementary pairs a sequence is read twice, under M and under the rest M' of its tokens, so each token is predicted
once: L (1/2k sum_M + 1/2(L-k) sum_M') -log mu; if k = L, with probability 1/L, sum_M -log mu (beside a reading without a
loss). Since L - k is as uniform as k, the mean over k = 1..L-1 of the two halves is that of the any-order form, and k = L
has the 1/L that it has there: the same number, exactly.

Importance sampling draws small k more often and gives each draw the weight 1 / (L p(k)): the same number, with less noise
(`masked_counts.py`).

Time form: NELBO(x) = E_{t, z_t} sum_i lambda_t 1[z_t^i = m] (-log mu^i(x^i)), tokens masked independently with probability
1 - alpha_t (MDLM, arXiv 2406.07524; MD4, arXiv 2406.04329).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from .base import Batch, NoiseKey, Objective, ObjectiveOutput, attention_mask_or_none, scored_mask, to_device
from .masked_counts import FEWEST_STRATA, counts_by_importance, uniform_counts
from .noise import jittered_uniforms, row_uniforms, stratified_uniforms
from .static_shapes import StaticPositions


@dataclass
class Corruption:
    """Which tokens of a batch are hidden, and what that costs.

    In complementary pairs each sequence has two neighbouring rows, B being twice the sequences.

    Args:
        masked_BL: (B, L) bool, the hidden tokens; scored tokens only.
        weights_B: (B,) float64, weight of each masked token's cross-entropy in the NELBO of its sequence.
        noise_level_B: (B,) sigma = -log alpha of each row.
        masking_rate_B: (B,) share of the scored tokens that is hidden.
        draw_weights_B: (B,) how much less often a row is drawn than with uniform noise, a part of ``weights_B``; None: all as
            often.
    """

    masked_BL: np.ndarray
    weights_B: np.ndarray
    noise_level_B: np.ndarray
    masking_rate_B: np.ndarray
    draw_weights_B: np.ndarray | None = None


class MaskedDiffusionObjective(Objective):
    """The P0 NELBO.

    Args:
        mask_token_id: id of the mask token.
        loss_form: ``any_order`` (exact counts) or ``time`` (Bernoulli masks).
        noise_sampling: ``stratified`` over the whole optimiser batch, ``iid``, or of the any-order form ``pairs``: stratified
            counts, each sequence read under a mask and under its complement; ``importance``: stratified counts of which the
            small ones are drawn more often, if there are at least 16 sequences. Evaluations draw so; the accuracy that a
            training logs would be that of the draws, without their weights.
        schedule: noise schedule of the time form; the any-order form is the same number under every schedule.
        static_shapes: ask the LM head for as many positions in every micro-batch, so that a compiled step has one shape: the
            most that stratified counts or pairs can hide. All micro-batches must have one shape and no padding.

    Raises:
        ValueError: an unknown form or sampling; pairs, importance or static shapes where they do not exist.
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
        static_shapes: bool = False,
    ):
        if loss_form not in ("any_order", "time"):
            raise ValueError(f"loss_form must be any_order or time, got {loss_form!r}")
        if noise_sampling not in ("stratified", "iid", "pairs", "importance"):
            raise ValueError(f"noise_sampling must be stratified, iid, pairs or importance, got {noise_sampling!r}")
        if noise_sampling in ("pairs", "importance") and loss_form != "any_order":
            raise ValueError(f"{noise_sampling} is of exact counts: loss_form must be any_order, got {loss_form!r}")
        if static_shapes and (loss_form != "any_order" or noise_sampling in ("iid", "importance")):
            raise ValueError(
                f"static shapes need counts that have a bound, not loss_form {loss_form}, {noise_sampling}"
            )
        self.mask_token_id = mask_token_id
        self.loss_form = loss_form
        self.noise_sampling = noise_sampling
        self.schedule = schedule or NoiseSchedule()
        self.static_shapes = static_shapes
        self._static = StaticPositions() if static_shapes else None

    @property
    def reads(self) -> int:
        """How many times the model reads each sequence."""
        return 2 if self.noise_sampling == "pairs" else 1

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> MaskedDiffusionObjective:
        """Exact counts by importance: the form of P0 whose estimate varies least; in complementary pairs if asked for.

        Of one replicate counts are uniform: it takes others to tell what weights bring in where sequences differ in length.
        """
        sampling = "pairs" if pairs else "importance" if replicates > 1 else "stratified"
        return MaskedDiffusionObjective(self.mask_token_id, noise_sampling=sampling)

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        """Choose the masked tokens of each sequence; ``scored_BL`` is (B, L) bool. Pure in (key, scored_BL)."""
        counts_B = scored_BL.sum(-1)
        uniforms = row_uniforms(key, counts_B)
        own_B = np.array([row[0] for row in uniforms])
        if self.noise_sampling == "iid":
            u_B = own_B
        elif self.noise_sampling == "importance":
            u_B = jittered_uniforms(key, own_B)
        else:
            u_B = stratified_uniforms(key)
        # Numbers go to scored tokens in their order, so padding on either side changes nothing; inf is never masked.
        scores_BL = np.full(scored_BL.shape, np.inf)
        scores_BL[scored_BL] = np.concatenate([row[1:] for row in uniforms])
        if self.loss_form == "time":
            return self._bernoulli(u_B, scores_BL, counts_B)
        if self.noise_sampling == "importance" and key.size >= FEWEST_STRATA:
            return self._by_importance(u_B, scores_BL, counts_B)
        drawn = self._exact_counts(u_B, scores_BL, counts_B)
        return _with_complements(drawn.masked_BL, scored_BL) if self.noise_sampling == "pairs" else drawn

    def _exact_counts(self, u_B: np.ndarray, scores_BL: np.ndarray, counts_B: np.ndarray) -> Corruption:
        # A sequence without scored tokens (k = 1 > L = 0) masks nothing: its scores are all inf.
        return self._hide(uniform_counts(u_B, counts_B), scores_BL, counts_B)

    def _by_importance(self, u_B: np.ndarray, scores_BL: np.ndarray, counts_B: np.ndarray) -> Corruption:
        k_B, draw_weights_B = counts_by_importance(u_B, counts_B)
        hidden = self._hide(k_B, scores_BL, counts_B)
        return replace(hidden, weights_B=draw_weights_B * hidden.weights_B, draw_weights_B=draw_weights_B)

    def _hide(self, k_B: np.ndarray, scores_BL: np.ndarray, counts_B: np.ndarray) -> Corruption:
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
        scored_BL, reads = scored_mask(batch), self.reads
        corruption = self.corrupt(scored_BL, key)
        hidden = torch.from_numpy(corruption.masked_BL)  # (R, L), R rows being reads times the sequences
        reads_N, columns_N = np.nonzero(corruption.masked_BL)
        positions = reads_N * hidden.shape[1] + columns_N
        if self._static is not None:
            positions = self._static(
                positions, corruption.masked_BL, scored_BL, batch.get("attention_mask"), key, reads
            )
        mask = attention_mask_or_none(batch)
        ids, labels = batch["input_ids"], batch["labels"]
        if reads > 1:
            ids, labels = ids.repeat_interleave(reads, dim=0), labels.repeat_interleave(reads, dim=0)
            mask = None if mask is None else mask.repeat_interleave(reads, dim=0)
        outputs = model(
            input_ids=to_device(ids.masked_fill(hidden, self.mask_token_id), device),
            attention_mask=None if mask is None else to_device(mask, device),
            labels=to_device(labels.masked_fill(~hidden, -100), device),
            loss_weights=to_device(torch.from_numpy(corruption.weights_B).float().unsqueeze(-1), device),
            positions=to_device(torch.from_numpy(positions), device),
            output_correct=accuracy,
        )
        count = len(reads_N)  # what follows in the answer is of positions that only fill up the shape
        return ObjectiveOutput(
            loss=outputs.loss / num_scored,
            rows_N=reads_N // reads,
            columns_N=columns_N,
            token_nll_N=outputs.token_nll[:count],
            token_weights_N=corruption.weights_B[reads_N],
            token_correct_N=None if outputs.token_correct is None else outputs.token_correct[:count],
            row_metrics={"noise_level": corruption.noise_level_B, "masking_rate": corruption.masking_rate_B},
            reads=reads,
            reads_N=reads_N,
            draw_weights_R=corruption.draw_weights_B,
        )


def _with_complements(masked_BL: np.ndarray, scored_BL: np.ndarray) -> Corruption:
    """Each mask and, in the row after it, its complement among the scored tokens."""
    masked_RL = np.stack([masked_BL, scored_BL & ~masked_BL], axis=1).reshape(-1, masked_BL.shape[1])
    counts_R, k_R = scored_BL.sum(-1).repeat(2), masked_RL.sum(-1)
    halves_R = np.divide(counts_R, 2.0 * k_R, out=np.zeros(len(k_R)), where=k_R > 0)
    weights_R = np.where((k_R == counts_R) & (k_R > 0), 1.0, halves_R)  # all hidden: there is no other half
    sigma_R = np.abs(np.log1p(-k_R / (counts_R + 1)))  # no -0.0 in the log
    return Corruption(masked_RL, weights_R, sigma_R, k_R / np.maximum(counts_R, 1))
