"""Random numbers that are a function of their key alone: no global state, the same on every rank and device.

Philox is counter-based (Salmon et al., 2011): seed and purpose make the key, and step and place are words of the
counter, so any row of any step can be drawn on its own, in any order, at the same cost.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .base import NoiseKey

_PURPOSES = {"train": 1, "eval": 2}
_BATCH_PLACE = 2**63  # counter word of numbers that belong to a whole optimiser batch, not to a row


def row_uniforms(key: NoiseKey, counts_B: np.ndarray) -> list[np.ndarray]:
    """For each row, ``1 + counts_B[row]`` uniform numbers in [0, 1), float64: one for the sequence, one a scored token.

    A row's numbers depend on (seed, purpose, step, place) only, not on the batch around it.
    """
    generator = _Philox(key.seed, key.purpose)
    return [
        generator.uniforms(int(place), key.step, 1 + int(count))
        for place, count in zip(key.places_B, counts_B, strict=True)
    ]


def stratified_uniforms(key: NoiseKey) -> np.ndarray:
    """(B,) numbers u_j = (U + pi(j)/N) mod 1 that cover [0, 1) evenly over the N sequences of the optimiser batch.

    U is uniform and shared by the batch, pi the rank order of a van der Corput sequence, so each u_j is uniform by
    itself, the N together fall one into each of N equal strata (up to the offset), and every run of neighbouring places
    is nearly stratified as well.
    """
    offset = _Philox(key.seed, key.purpose).uniforms(_BATCH_PLACE, key.step, 1)[0]
    return (offset + van_der_corput_ranks(key.size)[key.places_B] / key.size) % 1.0


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
