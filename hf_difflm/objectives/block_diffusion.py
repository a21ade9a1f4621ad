"""P4: the NELBO of block diffusion (BD3-LM, arXiv 2503.09573): autoregressive over blocks, masked diffusion within one.

For a block of L_b scored tokens draw k uniformly from 1..L_b and a k-subset M uniformly;
NELBO(x) = sum_b L_b E_k E_M [ (1/k) sum_{i in M} -log mu^i(x^i | x^{<b}, what is shown of block b) ],
the any-order form of P0 in each block, given the clean text before it. Blocks of one token: k is 1, nothing is random, and
the number is exact. Blocks as long as the text: P0.

Blocks are counted in positions from a sequence's first token that is no padding, or anew from the first that is scored, its
answer: then the last block of what is before may be short. Context inside a block stands clean in it.
Tokens are read twice, clean and noisy: :mod:`hf_difflm.models.masked_diffusion.diffusion_blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from ..models.masked_diffusion.diffusion_blocks import number_from
from .base import Batch, NoiseKey, Objective, ObjectiveOutput, attention_mask_or_none, scored_mask, to_device
from .count_laws import CountLaw, draw_counts
from .noise import paired_uniforms, row_uniforms

_UNIFORM = CountLaw()


@dataclass
class BlockCorruption:
    """Which tokens of a batch are hidden, and what that costs; P blocks have scored tokens.

    Args:
        masked_BL: (B, L) bool, the hidden tokens; scored tokens only.
        weights_BL: (B, L) float64, weight of the cross-entropy of each position in the loss of its sequence, were it hidden.
        pairs_BL: (B, L) which of the P blocks each scored token belongs to; 0 elsewhere.
        noise_level_P: (P,) sigma = -log alpha of each block.
        masking_rate_P: (P,) share of its scored tokens that is hidden.
    """

    masked_BL: np.ndarray
    weights_BL: np.ndarray
    pairs_BL: np.ndarray
    noise_level_P: np.ndarray
    masking_rate_P: np.ndarray


class BlockDiffusionObjective(Objective):
    """The P4 NELBO; exact where a block is one token.

    Args:
        mask_token_id: id of the mask token.
        diffusion_block_size: tokens of a block.
        noise_sampling: ``stratified`` over all blocks of all sequences of the optimiser batch, or ``iid``.
        diffusion_block_start: where blocks are counted from, ``text`` or ``answer``.

    Raises:
        ValueError: an unknown sampling or start, or a block without tokens.
    """

    name = "bd3lm"

    def __init__(
        self,
        mask_token_id: int,
        diffusion_block_size: int,
        noise_sampling: str = "stratified",
        diffusion_block_start: str = "text",
    ):
        if noise_sampling not in ("stratified", "iid"):
            raise ValueError(f"noise_sampling must be stratified or iid, got {noise_sampling!r}")
        if diffusion_block_start not in ("text", "answer"):
            raise ValueError(f"diffusion_block_start must be text or answer, got {diffusion_block_start!r}")
        if diffusion_block_size < 1:
            raise ValueError(f"diffusion_block_size must be 1 or more, got {diffusion_block_size}")
        self.mask_token_id = mask_token_id
        self.diffusion_block_size = diffusion_block_size
        self.noise_sampling = noise_sampling
        self.diffusion_block_start = diffusion_block_start
        self.stochastic = diffusion_block_size > 1
        self.bound = "nelbo" if self.stochastic else "exact"

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> BlockDiffusionObjective:
        """The same bound, its counts stratified, however they were drawn in training.

        Raises:
            UserError: complementary pairs, which there are none of yet.
        """
        if pairs:
            raise UserError(
                "eval_pairs is for the objectives mdlm and atat, but the objective is bd3lm, whose blocks are not read in "
                "complementary pairs yet; leave it out"
            )
        start = self.diffusion_block_start
        return BlockDiffusionObjective(self.mask_token_id, self.diffusion_block_size, diffusion_block_start=start)

    def corrupt(
        self, scored_BL: np.ndarray, key: NoiseKey, attention_mask: np.ndarray | None = None
    ) -> BlockCorruption:
        """Choose the masked tokens of each block. Pure in the key and in what the sequences have, padding apart.

        Args:
            scored_BL: (B, L) bool.
            key: names the noise.
            attention_mask: (B, L), 0 at padding on either side; None where there is none.
        """
        places_BL = _places(scored_BL, attention_mask)
        starts_B = self._starts(scored_BL, places_BL)
        blocks_BL = number_from(places_BL, starts_B[:, None], self.diffusion_block_size)
        blocks_B = blocks_BL.max(-1) + 1
        most = int(blocks_B.max())
        # A sequence's numbers: one for each of its blocks, then one for each scored token in its order.
        uniforms = row_uniforms(key, scored_BL.sum(-1) + blocks_B - 1)
        if self.noise_sampling == "iid":
            u_BN = np.zeros((len(uniforms), most))
            for own_N, row, blocks in zip(u_BN, uniforms, blocks_B, strict=True):
                own_N[:blocks] = row[:blocks]
        else:
            u_BN = paired_uniforms(key, blocks_B)
        row_S, column_S = np.nonzero(scored_BL)
        block_S = row_S * most + blocks_BL[row_S, column_S]
        scores_S = np.concatenate([row[blocks:] for row, blocks in zip(uniforms, blocks_B, strict=True)])
        counts_X = np.bincount(block_S, minlength=u_BN.size)
        k_X, weights_X, _ = draw_counts(_UNIFORM, "nelbo", u_BN.flatten(), counts_X)

        # The k lowest scores of each block.
        order_S = np.lexsort((scores_S, block_S))
        rank_S = np.empty_like(order_S)
        rank_S[order_S] = np.arange(len(order_S)) - (counts_X.cumsum() - counts_X)[block_S[order_S]]
        masked_BL = np.zeros_like(scored_BL)
        masked_BL[row_S, column_S] = rank_S < k_X[block_S]
        weights_BL = np.zeros(scored_BL.shape)
        weights_BL[row_S, column_S] = weights_X[block_S]

        has_scored_X = counts_X > 0
        pairs_BL = np.zeros(scored_BL.shape, dtype=np.int64)
        pairs_BL[row_S, column_S] = (has_scored_X.cumsum() - 1)[block_S]
        k_P, counts_P = k_X[has_scored_X], counts_X[has_scored_X]
        # t := k / (L + 1), sigma = -log(1 - t)
        return BlockCorruption(masked_BL, weights_BL, pairs_BL, -np.log1p(-k_P / (counts_P + 1)), k_P / counts_P)

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
        mask, scored_BL = attention_mask_or_none(batch), scored_mask(batch)
        mask_BL = None if mask is None else mask.numpy()
        corruption = self.corrupt(scored_BL, key, mask_BL)
        begins = {}
        if self.diffusion_block_start == "answer":
            starts_B = self._starts(scored_BL, _places(scored_BL, mask_BL))
            begins["answer_starts"] = to_device(torch.from_numpy(starts_B), device)
        hidden = torch.from_numpy(corruption.masked_BL)
        rows_N, columns_N = np.nonzero(corruption.masked_BL)
        outputs = model(
            input_ids=to_device(batch["input_ids"].masked_fill(hidden, self.mask_token_id), device),
            clean_ids=to_device(batch["input_ids"], device),
            attention_mask=None if mask is None else to_device(mask, device),
            labels=to_device(batch["labels"].masked_fill(~hidden, -100), device),
            loss_weights=to_device(torch.from_numpy(corruption.weights_BL).float(), device),
            positions=to_device(torch.from_numpy(rows_N * hidden.shape[1] + columns_N), device),
            output_correct=accuracy,
            **begins,
        )
        return ObjectiveOutput(
            loss=outputs.loss / num_scored,
            rows_N=rows_N,
            columns_N=columns_N,
            token_nll_N=outputs.token_nll,
            token_weights_N=corruption.weights_BL[rows_N, columns_N],
            token_correct_N=outputs.token_correct,
            row_metrics={"noise_level": corruption.noise_level_P, "masking_rate": corruption.masking_rate_P},
            reads_N=corruption.pairs_BL[rows_N, columns_N],
        )


def _places(scored_BL: np.ndarray, attention_mask: np.ndarray | None) -> np.ndarray:
    """(B, L) number of each token in its row, padding apart."""
    if attention_mask is None:
        return np.broadcast_to(np.arange(scored_BL.shape[1]), scored_BL.shape)
    return ((attention_mask != 0).cumsum(-1) - 1).clip(0)
