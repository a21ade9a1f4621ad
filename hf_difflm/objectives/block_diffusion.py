"""P4: the NELBO of block diffusion (BD3-LM, arXiv 2503.09573): autoregressive over blocks, masked diffusion within one.

For a block of L_b scored tokens draw k uniformly from 1..L_b and a k-subset M uniformly;
NELBO(x) = sum_b L_b E_k E_M [ (1/k) sum_{i in M} -log mu^i(x^i | x^{<b}, what is shown of block b) ],
the any-order form of P0 in each block, given the clean text before it. Blocks of one token: k is 1, nothing is random, and
the number is exact. Blocks as long as the text: P0.

Blocks are counted in positions from a sequence's first token that is no padding, or anew from the first that is scored, its
answer: then the last block of what is before may be short. Context inside a block stands clean in it.
Tokens are read twice, clean and noisy: :mod:`hf_difflm.models.masked_diffusion.diffusion_blocks`.

The time form, complementary pairs, and laws and weights of counts are those of P0 (`masked_diffusion.py`), in each block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..models.masked_diffusion.diffusion_blocks import number_from
from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from .base import Batch, NoiseKey, ObjectiveOutput, attention_mask_or_none, scored_mask, to_device
from .count_laws import CountLaw, draw_counts
from .drawn_noise import UNIFORM, MaskingObjective, bernoulli_rates, complements
from .noise import paired_uniforms, row_uniforms
from .static_shapes import StaticPositions


@dataclass
class BlockCorruption:
    """Which tokens of a batch are hidden, and what that costs; P blocks have scored tokens.

    In complementary pairs each sequence has two neighbouring rows, and each block two readings: R = 2 B and 2 P.

    Args:
        masked_RL: (R, L) bool, the hidden tokens; scored tokens only.
        weights_RL: (R, L) float64, weight of the cross-entropy of each position in the loss of its sequence, were it hidden.
        blocks_RL: (R, L) which of the readings of blocks each scored token belongs to; 0 elsewhere.
        noise_level_P: (P,) sigma = -log alpha of each reading.
        masking_rate_P: (P,) share of its scored tokens that is hidden.
        draw_weights_P: (P,) how much less often it is drawn than with uniform noise; None: all as often.
    """

    masked_RL: np.ndarray
    weights_RL: np.ndarray
    blocks_RL: np.ndarray
    noise_level_P: np.ndarray
    masking_rate_P: np.ndarray
    draw_weights_P: np.ndarray | None = None


class BlockDiffusionObjective(MaskingObjective):
    """The P4 NELBO; exact where a block is one token.

    Args:
        mask_token_id: id of the mask token.
        diffusion_block_size: tokens of a block.
        noise_sampling: ``stratified`` over all blocks of all sequences of the optimiser batch, ``iid``, or ``pairs``: each
            block is read under a mask and under its complement, after one reading of the clean text.
        diffusion_block_start: where blocks are counted from, ``text`` or ``answer``.
        loss_form, schedule, static_shapes, count_law, loss_weight: see
            :class:`~hf_difflm.objectives.drawn_noise.MaskingObjective`; laws and weights are of a block's own tokens.
        size_schedule: sizes of the blocks in equal parts of training, rising up to ``diffusion_block_size``; evaluations are
            of the last. (): it alone.

    Raises:
        ValueError: what :class:`~hf_difflm.objectives.drawn_noise.MaskingObjective` refuses; an unknown start, a block
            without tokens, sizes that do not rise to the last; static shapes of blocks that begin at an answer.
    """

    name = "bd3lm"
    form = "p4"

    def __init__(
        self,
        mask_token_id: int,
        diffusion_block_size: int,
        noise_sampling: str = "stratified",
        diffusion_block_start: str = "text",
        loss_form: str = "any_order",
        schedule: NoiseSchedule | None = None,
        static_shapes: bool = False,
        count_law: CountLaw = UNIFORM,
        loss_weight: str = "nelbo",
        size_schedule: Sequence[int] = (),
    ):
        super().__init__(mask_token_id, loss_form, noise_sampling, schedule, static_shapes, count_law, loss_weight)
        if diffusion_block_start not in ("text", "answer"):
            raise ValueError(f"diffusion_block_start must be text or answer, got {diffusion_block_start!r}")
        if static_shapes and diffusion_block_start == "answer":
            raise ValueError(
                "static shapes need blocks that begin with the text, not at answers, which differ in length"
            )
        sizes = tuple(size_schedule) or (diffusion_block_size,)
        if min(*sizes, diffusion_block_size) < 1:
            raise ValueError(f"diffusion_block_size must be 1 or more, got {min(*sizes, diffusion_block_size)}")
        if sizes != tuple(sorted(set(sizes))) or sizes[-1] != diffusion_block_size:
            raise ValueError(f"size_schedule must rise to diffusion_block_size {diffusion_block_size}, got {sizes}")
        self.diffusion_block_size = diffusion_block_size
        self.diffusion_block_start = diffusion_block_start
        self.size_schedule = sizes
        self.total_steps: int | None = None
        self.stochastic = diffusion_block_size > 1
        self.bound = "nelbo" if self.stochastic else "exact"
        if len(sizes) > 1:
            self.train_objective = f"{self.train_objective or self.form} in blocks of {', '.join(map(str, sizes))}"
        self._static = StaticPositions(count_law) if static_shapes else None

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> BlockDiffusionObjective:
        """The same bound at the last size of blocks: exact uniform counts, however they were drawn in training."""
        return BlockDiffusionObjective(
            self.mask_token_id,
            self.diffusion_block_size,
            "pairs" if pairs and self.stochastic else "stratified",  # one token has no complement
            self.diffusion_block_start,
        )

    def begin(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def size_at(self, step: int) -> int:
        """Tokens of a block in optimiser step ``step``, the first being 0.

        Raises:
            ValueError: blocks that grow, before ``begin`` has said how long training is.
        """
        if len(self.size_schedule) == 1:
            return self.diffusion_block_size
        if self.total_steps is None:
            raise ValueError("blocks grow with training: call begin with the number of its steps first")
        part = step * len(self.size_schedule) // max(self.total_steps, 1)
        return self.size_schedule[min(part, len(self.size_schedule) - 1)]

    def transition(self, step: int) -> str | None:
        if len(self.size_schedule) == 1 or step == 0:
            return None
        before, now = self.size_at(step - 1), self.size_at(step)
        return None if now == before else f"diffusion blocks of {before} -> {now} tokens"

    def corrupt(
        self, scored_BL: np.ndarray, key: NoiseKey, attention_mask: np.ndarray | None = None, size: int | None = None
    ) -> BlockCorruption:
        """Choose the masked tokens of each block. Pure in the key and in what the sequences have, padding apart.

        Args:
            scored_BL: (B, L) bool.
            key: names the noise.
            attention_mask: (B, L), 0 at padding on either side; None where there is none.
            size: tokens of a block; None: ``diffusion_block_size``.
        """
        places_BL = _places(scored_BL, attention_mask)
        starts_B = self._starts(scored_BL, places_BL)
        numbers_BL = number_from(places_BL, starts_B[:, None], size or self.diffusion_block_size)
        blocks_B = numbers_BL.max(-1) + 1
        most = int(blocks_B.max())
        # A sequence's numbers: one for each of its blocks, then one for each scored token in its order.
        uniforms = row_uniforms(key, scored_BL.sum(-1) + blocks_B - 1)
        own_BN = np.zeros((len(uniforms), most))
        for own_N, row, blocks in zip(own_BN, uniforms, blocks_B, strict=True):
            own_N[:blocks] = row[:blocks]
        u_BN = own_BN
        if self.noise_sampling != "iid":
            u_BN = paired_uniforms(key, blocks_B, None if self.count_law == UNIFORM else own_BN)
        row_S, column_S = np.nonzero(scored_BL)
        block_S = row_S * most + numbers_BL[row_S, column_S]
        scores_S = np.concatenate([row[blocks:] for row, blocks in zip(uniforms, blocks_B, strict=True)])
        counts_X = np.bincount(block_S, minlength=u_BN.size)
        draw_weights_X = None
        if self.loss_form == "time":
            p_X, weights_X, sigma_X = bernoulli_rates(self.schedule, u_BN.flatten())
            masked_S = scores_S < p_X[block_S]
        else:
            k_X, weights_X, draw_weights_X = draw_counts(self.count_law, self.loss_weight, u_BN.flatten(), counts_X)
            # The k lowest scores of each block.
            order_S = np.lexsort((scores_S, block_S))
            rank_S = np.empty_like(order_S)
            rank_S[order_S] = np.arange(len(order_S)) - (counts_X.cumsum() - counts_X)[block_S[order_S]]
            masked_S = rank_S < k_X[block_S]
            # t := k / (L + 1), sigma = -log(1 - t)
            sigma_X = -np.log1p(-k_X / (np.maximum(counts_X, k_X) + 1))

        # Readings: of a block one, or two whose masks are complements; (S, C) which of them hides a token.
        hidden_SC = masked_S[:, None]
        if self.noise_sampling == "pairs":
            hidden_SC = np.stack([masked_S, ~masked_S], axis=1)
        reads = hidden_SC.shape[1]
        k_XC = np.stack([np.bincount(block_S, hidden_S, minlength=u_BN.size) for hidden_S in hidden_SC.T], axis=1)
        weights_XC, sigma_XC = weights_X[:, None], sigma_X[:, None]
        if reads > 1:
            halves_Y, sigma_Y = complements(k_XC.flatten(), counts_X.repeat(reads))
            weights_XC, sigma_XC = halves_Y.reshape(-1, reads), sigma_Y.reshape(-1, reads)
        has_scored_X = counts_X > 0
        found_S = (has_scored_X.cumsum() - 1)[block_S]
        masked_BCL = np.zeros((len(scored_BL), reads, scored_BL.shape[1]), dtype=bool)
        weights_BCL, blocks_BCL = np.zeros(masked_BCL.shape), np.zeros(masked_BCL.shape, dtype=np.int64)
        masked_BCL[row_S, :, column_S] = hidden_SC
        weights_BCL[row_S, :, column_S] = weights_XC[block_S]
        blocks_BCL[row_S, :, column_S] = found_S[:, None] * reads + np.arange(reads)
        length = scored_BL.shape[1]
        return BlockCorruption(
            masked_BCL.reshape(-1, length),
            weights_BCL.reshape(-1, length),
            blocks_BCL.reshape(-1, length),
            sigma_XC[has_scored_X].flatten(),
            (k_XC[has_scored_X] / counts_X[has_scored_X, None]).flatten(),
            None if self.count_law == UNIFORM or draw_weights_X is None else draw_weights_X[has_scored_X],
        )

    def _starts(self, scored_BL: np.ndarray, places_BL: np.ndarray) -> np.ndarray:
        """(B,) the place at which blocks begin anew; 0: they do not."""
        if self.diffusion_block_start == "text":
            return np.zeros(len(scored_BL), dtype=np.int64)
        first_B = np.take_along_axis(places_BL, scored_BL.argmax(-1)[:, None], axis=-1)[:, 0]
        return np.where(scored_BL.any(-1), first_B, 0)

    def __call__(
        self,
        model: Any,
        batch: Batch,
        key: NoiseKey,
        num_scored: int | torch.Tensor,
        device: torch.device | str = "cpu",
        accuracy: bool = False,
    ) -> ObjectiveOutput:
        mask, scored_BL, reads = attention_mask_or_none(batch), scored_mask(batch), self.reads
        mask_BL = None if mask is None else mask.numpy()
        size = self.diffusion_block_size
        asked: dict[str, Any] = {}
        if len(self.size_schedule) > 1:
            size = asked["diffusion_block_size"] = self.size_at(int(key.row_steps[0]))
        corruption = self.corrupt(scored_BL, key, mask_BL, size)
        if self.diffusion_block_start == "answer":
            starts_B = self._starts(scored_BL, _places(scored_BL, mask_BL))
            asked["answer_starts"] = to_device(torch.from_numpy(starts_B), device)
        hidden = torch.from_numpy(corruption.masked_RL)
        rows_N, columns_N = np.nonzero(corruption.masked_RL)
        positions = rows_N * hidden.shape[1] + columns_N
        if self._static is not None:
            positions = self._static(positions, corruption.masked_RL, scored_BL, mask, key, reads, size)
        reads_N, weights_N = corruption.blocks_RL[rows_N, columns_N], corruption.weights_RL[rows_N, columns_N]
        ids, labels = (batch[name].repeat_interleave(reads, dim=0) for name in ("input_ids", "labels"))
        outputs = model(
            input_ids=to_device(ids.masked_fill(hidden, self.mask_token_id), device),
            clean_ids=to_device(batch["input_ids"], device),
            attention_mask=None if mask is None else to_device(mask, device),
            labels=to_device(labels.masked_fill(~hidden, -100), device),
            loss_weights=to_device(torch.from_numpy(corruption.weights_RL).float(), device),
            positions=to_device(torch.from_numpy(positions), device),
            output_correct=accuracy,
            **asked,
            **self._watched(corruption.masking_rate_P[reads_N], weights_N, num_scored, device),
        )
        count = len(rows_N)  # what follows in the answer is of positions that only fill up the shape
        return ObjectiveOutput(
            loss=outputs.loss / num_scored,
            rows_N=rows_N // reads,
            columns_N=columns_N,
            token_nll_N=outputs.token_nll[:count],
            token_weights_N=weights_N,
            token_correct_N=None if outputs.token_correct is None else outputs.token_correct[:count],
            row_metrics={"noise_level": corruption.noise_level_P, "masking_rate": corruption.masking_rate_P},
            reads=reads,
            reads_N=reads_N,
            draw_weights_R=corruption.draw_weights_P,
        )


def _places(scored_BL: np.ndarray, attention_mask: np.ndarray | None) -> np.ndarray:
    """(B, L) number of each token in its row, padding apart."""
    if attention_mask is None:
        return np.broadcast_to(np.arange(scored_BL.shape[1]), scored_BL.shape)
    return ((attention_mask != 0).cumsum(-1) - 1).clip(0)
