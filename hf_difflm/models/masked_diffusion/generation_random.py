"""Random numbers of one's own for every row, drawn on the host, so that a row's text does not depend on its batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

# What a number of the counter is for: two purposes never share one.
TOKEN, EVENT, CONFIDENCE = range(3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Numbers of float64 in a chunk of draw_tokens; 4 MiB may stay in a CPU's cache.
_LARGEST_CHUNK, _LARGEST_CHUNK_ELSEWHERE = 2**19, 2**24
_TILE = 1024  # of a vocabulary, on a CPU


def row_seeds(seed: int | Sequence[int], prompts: int, copies: int) -> list[list[int]]:
    """Entropy of each of the ``prompts`` x ``copies`` rows.

    A list has one seed for each prompt, and a prompt alone with its seed as an int has the same entropy.

    Raises:
        ValueError: a list that is not as long as there are prompts.
    """
    if isinstance(seed, int):
        return [[seed, row] for row in range(prompts * copies)]
    if len(seed) != prompts:
        raise ValueError(f"seed lists {len(seed)} seeds for {prompts} prompts; give one for each prompt, or one number")
    return [[one, copy] for one in seed for copy in range(copies)]


class RowDraws:
    """Uniform numbers of each row.

    Args:
        seeds: the entropy of each row, see :func:`row_seeds`.
    """

    def __init__(self, seeds: list[list[int]]) -> None:
        self._seeds = seeds
        self._key_B: np.ndarray | None = None

    def once(self, holes_BL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two numbers a hole, NaN elsewhere: when it is revealed, and which token. ``holes_BL``: bool."""
        when_BL, token_BL = np.full(holes_BL.shape, np.nan), np.full(holes_BL.shape, np.nan)
        draws = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence(seed))).random((2, count))
            for seed, count in zip(self._seeds, holes_BL.sum(-1).tolist(), strict=True)
        ]
        when_BL[holes_BL], token_BL[holes_BL] = np.concatenate(draws, axis=1)
        return when_BL, token_BL

    def uniform(self, purpose: int, step: int, row_N: np.ndarray, place_N: np.ndarray) -> np.ndarray:
        """The number of a purpose, step, row and place (column after the padding of its row); (N,), in (0, 1).

        SplitMix64 started from a key of the row: any number of it can be had without those before.
        """
        if self._key_B is None:
            keys = [np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] for seed in self._seeds]
            self._key_B = np.array(keys, dtype=np.uint64)
        counter_N = place_N.astype(np.uint64) + np.uint64((step * 4 + purpose) << 32)
        z_N = self._key_B[row_N] + (counter_N + np.uint64(1)) * _GOLDEN
        z_N = (z_N ^ (z_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z_N = (z_N ^ (z_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z_N = z_N ^ (z_N >> np.uint64(31))
        # The top 52 bits, so that the half added is exact and neither 0 nor 1 comes out.
        return ((z_N >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def draw_tokens(logits_NV: torch.Tensor, uniform_N: torch.Tensor) -> torch.Tensor:
    """(N,) tokens: invert the cumulative distribution in float64.

    One uniform number a token does what V Gumbel draws do. In float32 such noise acts as a lower temperature
    (arXiv 2409.02908). ``uniform_N``: float64, on any device.
    """
    device = logits_NV.device
    if device.type == "mps":  # has no float64
        return draw_tokens(logits_NV.cpu(), uniform_N).to(device)
    uniform_N = uniform_N.to(device)
    most = _LARGEST_CHUNK if device.type == "cpu" else _LARGEST_CHUNK_ELSEWHERE
    rows = max(1, most // max(logits_NV.shape[-1], 1))
    chunks = zip(logits_NV.split(rows), uniform_N.split(rows), strict=True)
    if device.type == "cpu" and logits_NV.dtype == torch.float32 and logits_NV.shape[-1] >= 2 * _TILE:
        return torch.cat([_in_two_steps(*chunk) for chunk in chunks])
    return torch.cat([find(logits.double().softmax(-1), uniform)[0] for logits, uniform in chunks])


def _in_two_steps(logits_NV: torch.Tensor, uniform_N: torch.Tensor) -> torch.Tensor:
    """The same, first among tiles of the vocabulary and then inside one: float64 for what is summed, not for all logits."""
    vocabulary = logits_NV.shape[1]
    whole = vocabulary // _TILE * _TILE
    mass_NV = (logits_NV - logits_NV.amax(-1, keepdim=True)).exp_()
    mass_NK = torch.cat(
        [mass_NV[:, :whole].unflatten(-1, (-1, _TILE)).sum(-1), mass_NV[:, whole:].sum(-1, keepdim=True)], dim=-1
    )
    tile_N, rest_N = find(mass_NK.double(), uniform_N)
    tokens_NC = tile_N[:, None] * _TILE + torch.arange(_TILE)
    logits_NC = logits_NV.gather(-1, tokens_NC.clamp(max=vocabulary - 1)).double()
    inside_N, _ = find(logits_NC.masked_fill(tokens_NC >= vocabulary, float("-inf")).softmax(-1), rest_N)
    return tile_N * _TILE + inside_N


def find(mass_NK: torch.Tensor, uniform_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) in which of K parts a uniform number falls, and how far into it, a number from 0 to 1; ``mass_NK``: float64."""
    cumulative_NK = mass_NK.cumsum(-1)
    total_N1 = cumulative_NK[:, -1:]
    # Strictly below the total, so that rounding cannot land past the last part that has any mass.
    target_N1 = torch.minimum(uniform_N.unsqueeze(-1) * total_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    part_N1 = torch.searchsorted(cumulative_NK, target_N1, right=True).clamp(max=mass_NK.shape[1] - 1)
    mass_N1 = mass_NK.gather(-1, part_N1)
    before_N1 = cumulative_NK.gather(-1, part_N1) - mass_N1
    return part_N1.squeeze(-1), ((target_N1 - before_N1) / mass_N1).clamp(0, 1).squeeze(-1)


def wide(values: torch.Tensor) -> torch.Tensor:
    """In float64, where there is such a thing."""
    return values if values.device.type == "mps" else values.double()
