"""P0: the NELBO of masked diffusion with uniform masking, in two forms of the same number.

Any-order form, exact (the default): for a sequence of L scored tokens draw k uniformly from 1..L and a k-subset M
uniformly; NELBO(x) = L E_k E_M [ (1/k) sum_{i in M} -log mu^i(x^i) ]  (the any-order view: arXiv 2110.02037, eq. 5;
arXiv 2406.03736, eq. 2.6). No 1/t blow-up, no smallest time, no discretisation.

In complementary pairs a sequence is read twice, under M and under the rest M' of its tokens, so each token is predicted
once: L (1/2k sum_M + 1/2(L-k) sum_M') -log mu; if k = L, with probability 1/L, sum_M -log mu (beside a reading without a
loss). Since L - k is as uniform as k, the mean over k = 1..L-1 of the two halves is that of the any-order form, and k = L
has the 1/L that it has there: the same number, exactly.

Other laws p(k) with the weight 1 / (L p(k)) of each draw give the same number, with other noise: evaluations draw small k
more often. Training may minimise other weights, too (`count_laws.py`).

Time form: NELBO(x) = E_{t, z_t} sum_i lambda_t 1[z_t^i = m] (-log mu^i(x^i)), tokens masked independently with probability
1 - alpha_t (MDLM, arXiv 2406.07524; MD4, arXiv 2406.04329).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from .base import Batch, NoiseKey, ObjectiveOutput, attention_mask_or_none, scored_mask, to_device
from .count_laws import FEWEST_STRATA, CountLaw, draw_counts
from .drawn_noise import UNIFORM, MaskingObjective, bernoulli_rates, complements
from .noise import jittered_uniforms, row_uniforms, stratified_uniforms
from .static_shapes import StaticPositions


@dataclass
class Corruption:
    """Which tokens of a batch are hidden, and what that costs.

    In complementary pairs each sequence has two neighbouring rows, B being twice the sequences.

    Args:
        masked_BL: (B, L) bool, the hidden tokens; scored tokens only.
        weights_B: (B,) float64, weight of each masked token's cross-entropy in the loss of its sequence.
        noise_level_B: (B,) sigma = -log alpha of each row.
        masking_rate_B: (B,) share of the scored tokens that is hidden.
        draw_weights_B: (B,) how much less often a row is drawn than with uniform noise; None: all as often.
    """

    masked_BL: np.ndarray
    weights_B: np.ndarray
    noise_level_B: np.ndarray
    masking_rate_B: np.ndarray
    draw_weights_B: np.ndarray | None = None


class MaskedDiffusionObjective(MaskingObjective):
    """The P0 NELBO.

    Args:
        mask_token_id, loss_form, noise_sampling, schedule, static_shapes, count_law, loss_weight: see
            :class:`~hf_difflm.objectives.drawn_noise.MaskingObjective`.
        fewest: sequences from which on the law is ``count_law``; with fewer it is uniform.

    Raises:
        ValueError: an unknown form or sampling; pairs, laws, weights or static shapes where they do not exist.
    """

    name = "mdlm"

    def __init__(
        self,
        mask_token_id: int,
        loss_form: str = "any_order",
        noise_sampling: str = "stratified",
        schedule: NoiseSchedule | None = None,
        static_shapes: bool = False,
        count_law: CountLaw = UNIFORM,
        loss_weight: str = "nelbo",
        fewest: int = 1,
    ):
        super().__init__(mask_token_id, loss_form, noise_sampling, schedule, static_shapes, count_law, loss_weight)
        self.fewest = fewest
        self._static = StaticPositions(count_law) if static_shapes else None

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> MaskedDiffusionObjective:
        """Exact counts by importance: the form of P0 whose estimate varies least; in complementary pairs if asked for.

        Of one replicate counts are uniform: it takes others to tell what weights bring in where sequences differ in length.
        """
        if pairs:
            return MaskedDiffusionObjective(self.mask_token_id, noise_sampling="pairs")
        law = CountLaw("importance") if replicates > 1 else UNIFORM
        return MaskedDiffusionObjective(self.mask_token_id, count_law=law, fewest=FEWEST_STRATA)

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        """Choose the masked tokens of each sequence; ``scored_BL`` is (B, L) bool. Pure in (key, scored_BL)."""
        counts_B = scored_BL.sum(-1)
        uniforms = row_uniforms(key, counts_B)
        own_B = np.array([row[0] for row in uniforms])
        if self.noise_sampling == "iid":
            u_B = own_B
        elif self.count_law != UNIFORM:
            u_B = jittered_uniforms(key, own_B)
        else:
            u_B = stratified_uniforms(key)
        # Numbers go to scored tokens in their order, so padding on either side changes nothing; inf is never masked.
        scores_BL = np.full(scored_BL.shape, np.inf)
        scores_BL[scored_BL] = np.concatenate([row[1:] for row in uniforms])
        if self.loss_form == "time":
            return self._bernoulli(u_B, scores_BL, counts_B)
        law = self.count_law if key.size >= self.fewest else UNIFORM
        drawn = self._exact_counts(law, u_B, scores_BL, counts_B)
        return _with_complements(drawn.masked_BL, scored_BL) if self.noise_sampling == "pairs" else drawn

    def _exact_counts(self, law: CountLaw, u_B: np.ndarray, scores_BL: np.ndarray, counts_B: np.ndarray) -> Corruption:
        k_B, weights_B, draw_weights_B = draw_counts(law, self.loss_weight, u_B, counts_B)
        # A sequence without scored tokens (k = 1 > L = 0) masks nothing: its scores are all inf.
        ranked_BL = np.sort(scores_BL, axis=-1)
        threshold_B1 = np.take_along_axis(ranked_BL, k_B[:, None] - 1, axis=-1)
        masked_BL = (scores_BL <= threshold_B1) & np.isfinite(scores_BL)
        # t := k / (L + 1), sigma = -log(1 - t)
        t_B = np.where(counts_B > 0, k_B / (counts_B + 1), 0.0)
        rate_B = np.where(counts_B > 0, k_B / np.maximum(counts_B, 1), 0.0)
        return Corruption(masked_BL, weights_B, -np.log1p(-t_B), rate_B, None if law == UNIFORM else draw_weights_B)

    def _bernoulli(self, u_B: np.ndarray, scores_BL: np.ndarray, counts_B: np.ndarray) -> Corruption:
        p_B, weights_B, sigma_B = bernoulli_rates(self.schedule, u_B)
        masked_BL = scores_BL < p_B[:, None]
        return Corruption(masked_BL, weights_B, sigma_B, masked_BL.sum(-1) / np.maximum(counts_B, 1))

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
        rates_N, weights_N = corruption.masking_rate_B[reads_N], corruption.weights_B[reads_N]
        outputs = model(
            input_ids=to_device(ids.masked_fill(hidden, self.mask_token_id), device),
            attention_mask=None if mask is None else to_device(mask, device),
            labels=to_device(labels.masked_fill(~hidden, -100), device),
            loss_weights=to_device(torch.from_numpy(corruption.weights_B).float().unsqueeze(-1), device),
            positions=to_device(torch.from_numpy(positions), device),
            output_correct=accuracy,
            **self._watched(rates_N, weights_N, num_scored, device),
        )
        count = len(reads_N)  # what follows in the answer is of positions that only fill up the shape
        return ObjectiveOutput(
            loss=outputs.loss / num_scored,
            rows_N=reads_N // reads,
            columns_N=columns_N,
            token_nll_N=outputs.token_nll[:count],
            token_weights_N=weights_N,
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
    weights_R, sigma_R = complements(k_R, counts_R)
    return Corruption(masked_RL, weights_R, sigma_R, k_R / np.maximum(counts_R, 1))
