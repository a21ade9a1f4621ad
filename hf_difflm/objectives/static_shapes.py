"""As many labelled positions in every micro-batch: stratified counts have a bound, and the rest is filled up."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ..errors import UserError
from .base import NoiseKey
from .count_laws import CountLaw, most_of_a_stratum
from .noise import stratified_sums, van_der_corput_ranks


class StaticPositions:
    """Fills the positions of the LM head up to the most there can be.

    It remembers the shape of the first micro-batch, and refuses another: no step would be compiled once.
    """

    def __init__(self, count_law: CountLaw) -> None:
        self._law = count_law
        self._shape: tuple[int, int] | None = None

    def __call__(
        self,
        positions_N: np.ndarray,
        masked_RL: np.ndarray,
        scored_BL: np.ndarray,
        attention_mask: torch.Tensor | None,
        key: NoiseKey,
        reads: int,
        diffusion_block_size: int | None = None,
    ) -> np.ndarray:
        """Return (P,) positions: the N first, then others that are not hidden, each once; they have no label.

        Args:
            positions_N: (N,) indices of the hidden tokens into the flattened R·L.
            masked_RL: (R, L) bool, the hidden tokens; R = reads·B.
            scored_BL: (B, L) bool.
            attention_mask: (B, L) on the host, or None.
            key: of the noise; its places are a whole micro-batch.
            reads: 1, or 2 for complementary pairs.
            diffusion_block_size: tokens of a block whose counts are drawn apart; None: sequences are.

        Raises:
            UserError: padding, or a shape that differs from that of the first call.
        """
        padded = attention_mask is not None and not bool(attention_mask.all())
        self._shape = self._shape or scored_BL.shape
        if padded or scored_BL.shape != self._shape:
            (rows, length), kind = (
                scored_BL.shape,
                "with padding" if padded else "after one of {} x {}".format(*self._shape),
            )
            raise UserError(
                f"static_shapes needs micro-batches of one shape, but there is one of {rows} x {length} tokens {kind}; "
                "pack the text into blocks of one length, or leave static_shapes out"
            )
        rows, length = scored_BL.shape
        scored = length if scored_BL[:, 0].any() else length - 1  # after BOS, which is context
        if diffusion_block_size is None or diffusion_block_size >= length:
            most = most_hidden(rows, scored, key.size, reads, self._law)
        else:
            most = most_hidden_in_blocks(rows, length, diffusion_block_size, key.size, reads, self._law)
        if len(positions_N) > most:
            raise ValueError(
                f"{len(positions_N)} tokens are hidden, at most {most} can be: places {key.places_B} are no micro-batch"
            )
        spare_M = np.flatnonzero(~masked_RL)[: most - len(positions_N)]
        return np.concatenate([positions_N, spare_M])


def most_hidden(rows: int, scored: int, size: int, reads: int = 1, law: CountLaw | None = None) -> int:
    """Return how many tokens of a micro-batch stratified counts hide at most; complementary pairs hide each token once.

    Args:
        rows: sequences of the micro-batch.
        scored: tokens of a sequence that can be hidden.
        size: sequences of the optimiser batch.
        reads: 1, or 2 for complementary pairs.
        law: of the counts; None: uniform.
    """
    if reads == 2:
        return rows * scored
    if law is not None and law.name != "uniform":
        return _most_of_a_law(law, rows, scored, max(size, rows))
    # k = 1 + floor(u L), summed; the margin is for the rounding of u.
    return min(rows + int(scored * stratified_sums(rows, max(size, rows))[1] + 1e-6), rows * scored)


def most_hidden_in_blocks(
    rows: int, length: int, block: int, size: int, reads: int = 1, law: CountLaw | None = None
) -> int:
    """The same where each diffusion block of ``block`` tokens of a sequence of ``length`` has a count of its own.

    The first and the last block, which may have fewer tokens, are taken for whole ones.
    """
    if reads == 2:
        return rows * length
    return min(_most_of_a_law(law or CountLaw(), rows, block, max(size, rows), -(-length // block)), rows * length)


@lru_cache(maxsize=16)
def _most_of_a_law(law: CountLaw, rows: int, scored: int, size: int, blocks: int = 1) -> int:
    """Over all micro-batches and all shifts of the strata, with each number at the end of its stratum.

    Those of a sequence's blocks are in strata N apart (:func:`~hf_difflm.objectives.noise.paired_uniforms`): their first says
    which they are.
    """
    tops_N = most_of_a_stratum(law, scored, size * blocks).reshape(blocks, size).sum(0)
    ranks_N = van_der_corput_ranks(size)
    firsts_N = (blocks * ranks_N + ranks_N // (size // np.gcd(size, blocks))) % size
    firsts_WR = firsts_N[: size - size % rows].reshape(-1, rows)
    return max(int(tops_N[(firsts_WR + shift) % size].sum(-1).max()) for shift in range(size))
