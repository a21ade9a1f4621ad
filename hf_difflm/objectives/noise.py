"""Random numbers that are a function of their key alone: no global state, the same on every rank and device.

Philox is counter-based (Salmon et al., 2011): seed and purpose make the key, and step and place are words of the
counter, so any row of any step can be drawn on its own, in any order, at the same cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .base import NoiseKey

_PURPOSES = {"train": 1, "eval": 2}
_BELOW_ONE = np.nextafter(1.0, 0.0)
_BATCH_PLACE = 2**63  # counter word of numbers that belong to a whole optimiser batch, not to a row


@dataclass(frozen=True, kw_only=True)
class ChosenNoise(NoiseKey):
    """A key that brings its numbers along: what an objective makes of every mask can then be enumerated.

    Args:
        u_B: (B,) in [0, 1), the number of each sequence, whether drawn alone or spread evenly over the batch; of block
            diffusion (B, n), the numbers of its blocks, as many of each sequence.
        scores_BN: (B, N) in [0, 1], the numbers of its scored tokens in their order, at least as many as there are.
    """

    u_B: np.ndarray
    scores_BN: np.ndarray


def row_uniforms(key: NoiseKey, counts_B: np.ndarray) -> list[np.ndarray]:
    """For each row, ``1 + counts_B[row]`` uniform numbers in [0, 1), float64: one for the sequence, one a scored token.

    A row's numbers depend on (seed, purpose, step, and its number or place) only, not on the batch around it.
    """
    if isinstance(key, ChosenNoise):
        numbers_BN = np.concatenate([key.u_B.reshape(len(key.u_B), -1), key.scores_BN], axis=1)
        return [row[: 1 + int(count)] for row, count in zip(numbers_BN, counts_B, strict=True)]
    generator = _Philox(key.seed, key.purpose)
    return [
        generator.uniforms(int(place), int(step), 1 + int(count))
        for place, step, count in zip(
            key.places_B if key.numbers_B is None else key.numbers_B, key.row_steps, counts_B, strict=True
        )
    ]


def stratified_uniforms(key: NoiseKey) -> np.ndarray:
    """(B,) numbers u_j = (U + pi(j)/N) mod 1 that cover [0, 1) evenly over the N sequences of the optimiser batch.

    U is uniform and shared by the batch, pi the rank order of a van der Corput sequence, so each u_j is uniform by
    itself, the N together fall one into each of N equal strata (up to the offset), and every run of neighbouring places
    is nearly stratified as well.
    """
    if isinstance(key, ChosenNoise):
        return key.u_B
    return (_shared_uniforms(key) + van_der_corput_ranks(key.size)[key.places_B] / key.size) % 1.0


def paired_uniforms(key: NoiseKey, blocks_B: np.ndarray, jitter_BN: np.ndarray | None = None) -> np.ndarray:
    """(B, n) numbers that cover [0, 1) evenly over all pairs of a sequence and one of its blocks, n being the most blocks.

    Pair (j, b) of N sequences of n blocks each has the number (U + c / (N n)) mod 1, U being uniform and shared, with
    c = n pi(j) + N rho(b) + floor(pi(j) / (N / g)), g = gcd(N, n), and pi and rho the ranks of :func:`stratified_uniforms`.
    The first two terms are g times each multiple of g, the last tells these apart: c mod N n is each of 0..N n - 1 once.
    So each of N n equal strata has one number; and so has, up to g / N n, each of n for the blocks of a sequence, and each of
    N for a block of all sequences. A sequence's numbers depend on how many blocks it has itself, and on nothing of others.
    With one block they are those of :func:`stratified_uniforms`, or with jitter those of :func:`jittered_uniforms`.

    Args:
        key: names U.
        blocks_B: (B,) blocks of each sequence, at least 1; numbers of blocks that it has not mean nothing.
        jitter_BN: uniform in [0, 1), independent: where each number is in its stratum; None: all at U's place in it.
    """
    if isinstance(key, ChosenNoise):
        return key.u_B
    n_B1, b_N = blocks_B[:, None].astype(np.int64), np.arange(int(blocks_B.max()))
    rho_BN = np.zeros((len(blocks_B), len(b_N)), dtype=np.int64)
    for blocks in np.unique(blocks_B).tolist():
        rho_BN[blocks_B == blocks, :blocks] = van_der_corput_ranks(blocks)
    pi_B1 = van_der_corput_ranks(key.size)[key.places_B][:, None]
    pairs_BN = n_B1 * pi_B1 + key.size * rho_BN + pi_B1 // (key.size // np.gcd(key.size, n_B1))
    size_B1, shared_B1 = key.size * n_B1, _shared_uniforms(key)[:, None]
    if jitter_BN is not None:
        return np.minimum(((pairs_BN + np.floor(shared_B1 * size_B1)) % size_B1 + jitter_BN) / size_B1, _BELOW_ONE)
    return (shared_B1 + pairs_BN % size_B1 / size_B1) % 1.0


def jittered_uniforms(key: NoiseKey, jitter_B: np.ndarray) -> np.ndarray:
    """(B,) numbers u_j = ((pi(j) + S) mod N + jitter_j) / N: one in each of N equal strata, anywhere in it.

    S is uniform on 0..N-1 and shared by the N sequences, pi as in :func:`stratified_uniforms`; each u_j is uniform by itself.
    There, all numbers are off the middle of their stratum by the same, which the mean of a function with a slope shows; here
    each is off by its own.

    Args:
        key: names S.
        jitter_B: (B,) uniform in [0, 1), independent: a sequence's own.
    """
    if isinstance(key, ChosenNoise):
        return key.u_B
    ranks_B = van_der_corput_ranks(key.size)[key.places_B]
    strata_B = (ranks_B + np.floor(_shared_uniforms(key) * key.size)) % key.size
    return np.minimum((strata_B + jitter_B) / key.size, _BELOW_ONE)


@lru_cache(maxsize=16)
def stratified_sums(rows: int, size: int) -> tuple[float, float]:
    """The least and the largest sum of :func:`stratified_uniforms` over a micro-batch, whichever it is and whatever U.

    A sum of numbers (U + v) mod 1 grows with U until the largest v wraps round: it is largest just before one of these
    moments, and least at one.

    Args:
        rows: sequences of a micro-batch: a run of as many places, the first of which is a multiple of it.
        size: sequences of the optimiser batch, at least ``rows``; the places after its last whole micro-batch are left out.
    """
    whole = size - size % rows
    v_WR = np.sort((van_der_corput_ranks(size)[:whole] / size).reshape(-1, rows), axis=-1)
    wrapped_R = rows - 1 - np.arange(rows)  # those above, which have wrapped round before
    sums_WR = v_WR.sum(-1, keepdims=True) + rows * (1 - v_WR) - wrapped_R
    return float(sums_WR.min()) - 1, float(sums_WR.max())


@lru_cache(maxsize=16)
def van_der_corput_ranks(size: int) -> np.ndarray:
    """(size,) rank of each of the first ``size`` terms of the base-2 van der Corput sequence; a permutation."""
    places = np.arange(size)
    reversed_bits = np.zeros(size)
    for bit in range(max(size - 1, 1).bit_length()):
        reversed_bits += ((places >> bit) & 1) / 2.0 ** (bit + 1)
    ranks = np.empty(size, dtype=np.int64)
    ranks[np.argsort(reversed_bits, kind="stable")] = places
    ranks.flags.writeable = False
    return ranks


def _shared_uniforms(key: NoiseKey) -> np.ndarray:
    """(B,) a uniform number that all sequences of a step share."""
    generator = _Philox(key.seed, key.purpose)
    steps_S, which_B = np.unique(key.row_steps, return_inverse=True)
    return np.array([generator.uniforms(_BATCH_PLACE, int(step), 1)[0] for step in steps_S])[which_B]


class _Philox:
    """One bit generator whose counter is set by hand; about 3 microseconds a row."""

    def __init__(self, seed: int, purpose: str):
        key = np.random.SeedSequence([seed, _PURPOSES[purpose]]).generate_state(2, np.uint64)
        self._bits = np.random.Philox(key=key, counter=np.zeros(4, np.uint64))
        self._state = self._bits.state

    def uniforms(self, place: int, step: int, count: int) -> np.ndarray:
        self._state["state"]["counter"][:] = (0, place, step, 0)
        self._state["buffer_pos"] = 4  # the buffer is empty: the next number comes from the counter
        self._bits.state = self._state
        return (self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53
