"""Whether block diffusion is what it says on a network: one token is changed, and the positions that move have read it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from ...errors import first_line
from ..masked_diffusion.diffusion_blocks import block_causal, noisy_hidden
from .moves import MOVED, differ
from .tiny import FIRST_TOKEN, VOCABULARY

_SIZE = 4
_BLOCKS = 3


@torch.no_grad()
def why_no_blocks(denoiser: Any) -> str | None:
    """Return why block diffusion is something else on this network, as a clause; None where it is not.

    Args:
        denoiser: a tiny one, its weights so large that what can be read moves.
    """
    try:
        return _Probe(denoiser).finding()
    except Exception as error:  # another library's code, called as it may never have been
        return f"it does not run block by block ({type(error).__name__}: {first_line(error).split(';')[0].rstrip('.')})"


class _Probe:
    """Three blocks of four tokens, clean and noisy; of hidden states those of the noisy text."""

    def __init__(self, denoiser: Any) -> None:
        self._backbone, self._offset = denoiser.backbone, denoiser.config.position_offset
        generator = torch.Generator().manual_seed(0)
        # The noisy tokens are others than the clean ones: what is read of which text must be seen.
        self._clean_1L, self._noisy_1L = (
            torch.randint(FIRST_TOKEN, VOCABULARY - 1, (1, _SIZE * _BLOCKS), generator=generator) for _ in range(2)
        )
        self._before_1LD = self._hidden(self._noisy_1L, self._clean_1L)

    def finding(self) -> str | None:
        first, last = slice(0, _SIZE), slice(2 * _SIZE, 3 * _SIZE)
        of_clean_L, of_noisy_L = self._moves(clean=_SIZE + 1), self._moves(noisy=_SIZE - 1)
        if (of_noisy_L[_SIZE:] > MOVED).any():
            return "a token is predicted from the masks of another block"
        if (self._moves(clean=2 * _SIZE) > MOVED).any() or (of_clean_L[: 2 * _SIZE] > MOVED).any():
            return "a token is predicted from the text of its own block or of a later one"
        if not (of_clean_L[last] > MOVED).all():
            return "a token is not predicted from the text of a block before it"
        if not (of_noisy_L[first] > MOVED).all():
            return "a token is not predicted from the others of its block"
        if differ(self._before_1LD, self._hidden(self._noisy_1L, self._clean_1L, one_forward=True)):
            return "one forward of clean and noisy text gives something else than one after the other"
        cache = DynamicCache()
        block_causal(self._backbone, self._clean_1L[:, : 2 * _SIZE], None, _SIZE, cache=cache, offset=self._offset)
        found = block_causal(self._backbone, self._noisy_1L[:, last], None, _SIZE, cache=cache, offset=self._offset)
        if differ(self._before_1LD[:, last], found.last_hidden_state):
            return "a block read after a cache of those before it gives something else"
        cache.crop(-_SIZE)
        again = block_causal(self._backbone, self._noisy_1L[:, last], None, _SIZE, cache=cache, offset=self._offset)
        if differ(found.last_hidden_state, again.last_hidden_state):
            return "a block read twice from one cache gives something else"
        return None

    def _moves(self, clean: int | None = None, noisy: int | None = None) -> torch.Tensor:
        """(L,) how far each hidden state moves, relative to the largest, with another token at one place."""
        texts = self._noisy_1L.clone(), self._clean_1L.clone()
        for ids_1L, place in zip(texts, (noisy, clean), strict=True):
            if place is not None:
                ids_1L[0, place] = FIRST_TOKEN + (ids_1L[0, place] - FIRST_TOKEN + 17) % (VOCABULARY - FIRST_TOKEN - 1)
        after_1LD = self._hidden(*texts)
        return (after_1LD - self._before_1LD)[0].abs().amax(-1) / self._before_1LD.abs().amax().clamp(min=1e-12)

    def _hidden(self, noisy_1L: torch.Tensor, clean_1L: torch.Tensor, one_forward: bool = False) -> torch.Tensor:
        return noisy_hidden(self._backbone, noisy_1L, clean_1L, None, _SIZE, self._offset, one_forward)[0]
