"""Block diffusion's way over a canvas: one diffusion block after the other, each predicted from the clean text before it.

A row has the steps and the random numbers that it has alone; rows with as many steps for each of their blocks go together.
Their first blocks with holes, wherever they are, are then the first of all, and what stands before is padded on the left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from .diffusion_blocks import number_from
from .generation_canvas import Canvas
from .generation_logits import Reader
from .generation_prefix import KeptPrefix
from .logit_statistics import Logits


class DiffusionBlocks:
    """Which holes are filled together, and logits of them.

    With a cache each forward reads the current block and what is not in the cache yet: the prompt at first, and the block
    before, now clean, at the first step of a block. What it keeps of the current block, which has masks, is taken out again.

    Args:
        reader: forwards rows of the canvas.
        config: of the denoiser: where blocks begin, and whether tokens are predicted from the position before.
        canvas: what is filled.
        size: tokens of a block.
        use_cache: keep keys and values of the blocks before; the texts are the same. Not under static shapes: all rows are
            read whole, then, since no token sees a block after its own.
        is_known: the holes are of a text that is known, and filled with it: any of its tokens may be given, and an answer
            begins at the first hole.
        kept: what the generation before has read, of a canvas of one row.

    Raises:
        ValueError: unless ``is_known``, a given token after the block of the first hole, which could not be seen from there,
            and a hole in a prompt where blocks begin anew at the answer.
    """

    def __init__(
        self,
        reader: Reader,
        config: Any,
        canvas: Canvas,
        size: int,
        use_cache: bool,
        is_known: bool = False,
        kept: KeptPrefix | None = None,
    ) -> None:
        self._reader, self._config, self._canvas, self._size, self._use_cache = reader, config, canvas, size, use_cache
        at_answer = config.diffusion_block_start == "answer"
        self._starts_B = canvas.real_BL[:, : canvas.prompt_length].sum(-1) if at_answer else None
        if at_answer and is_known:
            self._starts_B = np.take_along_axis(canvas.place_BL, canvas.holes_BL.argmax(-1)[:, None], axis=-1)[:, 0]
        self._numbers_BL = canvas.place_BL // size
        if self._starts_B is not None:
            self._numbers_BL = number_from(canvas.place_BL, self._starts_B[:, None], size)
        far = int(self._numbers_BL.max()) + 1
        self._first_B = np.where(canvas.holes_BL, self._numbers_BL, far).min(-1)  # far: no holes
        self._begin_B = self._first_B * size  # the place at which that block begins
        if self._starts_B is not None:
            if canvas.first_hole < canvas.prompt_length and not is_known:
                raise ValueError(
                    "holes in a prompt are not there yet for a model whose diffusion blocks begin at the answer; take them "
                    "out"
                )
            self._begin_B = self._starts_B
        unseen_BL = canvas.real_BL & ~canvas.holes_BL & (self._numbers_BL > self._first_B[:, None])
        if unseen_BL.any() and not is_known:
            row, column = np.argwhere(unseen_BL)[0]
            raise ValueError(
                f"the token at position {canvas.place_BL[row, column]} of prompt {row} stands in a later block of {size} "
                "tokens than a hole, which block diffusion fills from what is before it; let holes be followed by no text"
            )
        self._rows_G = np.empty(0, dtype=np.int64)
        self._cache, self._cached, self._start = DynamicCache(), 0, 0
        self._kept = kept

    def groups(self, steps: int) -> Iterator[tuple[np.ndarray, Iterator[tuple[int, np.ndarray, int]]]]:
        """Yield (B,) which rows go together, and their blocks: steps, (B, L) masks to fill, columns of the canvas.

        Args:
            steps: most steps of a row.

        Raises:
            ValueError: more blocks than steps.
        """
        alike: dict[tuple[int, ...], list[int]] = {}
        for row in np.flatnonzero(self._canvas.holes_BL.any(-1)).tolist():
            numbers_X = self._numbers_BL[row, self._canvas.holes_BL[row]] - self._first_B[row]
            alike.setdefault(self._steps(steps, np.bincount(numbers_X)), []).append(row)
        for steps_N, rows in alike.items():
            here_B = np.zeros(len(self._first_B), dtype=bool)
            here_B[rows] = True
            yield here_B, self.blocks(here_B, steps_N)

    def _steps(self, steps: int, holes_N: np.ndarray) -> tuple[int, ...]:
        """The steps of each block: one, and of the others as large a part as it has of the other holes.

        As many steps as holes are one for each hole.
        """
        blocks = len(holes_N)
        if steps < blocks:
            raise ValueError(
                f"max_denoising_steps {steps} are fewer than the {blocks} blocks of {self._size} tokens that the new tokens "
                "stand in; raise it"
            )
        others_N = (holes_N - 1).clip(0) if holes_N.max() > 1 else holes_N
        up_to_N = -(-(steps - blocks) * others_N.cumsum() // others_N.sum())
        return tuple((1 + np.diff(up_to_N, prepend=0)).tolist())

    def blocks(self, here_B: np.ndarray, steps_N: Sequence[int]) -> Iterator[tuple[int, np.ndarray, int]]:
        """Yield steps, (B, L) masks to fill and columns of the canvas, of each block of (B,) rows that go together."""
        self._rows_G = np.flatnonzero(here_B)
        self._cache, self._cached = DynamicCache(), 0
        self._prefix = int(self._begin_B[here_B].max())
        if self._kept is not None:
            cache, self._cached = self._kept.take(*self._first(self._prefix), self._shift)
            self._cache = self._cache if cache is None else cache
        for block, steps in enumerate(steps_N):
            self._start = self._prefix + block * self._size
            here_BL = here_B[:, None] & (self._numbers_BL - self._first_B[:, None] == block)
            yield steps, self._canvas.masked_BL & here_BL, self._canvas.length

    def keep(self) -> None:
        """Leave the clean blocks that were read to the next generation."""
        if self._kept is not None and self._cached:
            self._kept.keep(self._cache, *self._first(self._cached + self._shift))

    def logits(self, finished_B: np.ndarray, row_N: np.ndarray, column_N: np.ndarray) -> Logits:
        """(N, V) logits at some positions of the canvas, all in the block of their row that was yielded last.

        Args:
            finished_B: (B,) rows that are read no more; never one of ``row_N``.
            row_N, column_N: (N,) positions, row by row.
        """
        if self._reader.is_static:
            return self._whole(row_N, column_N)
        self._drop(finished_B)
        canvas, rows_R, device = self._canvas, self._rows_G, self._canvas.ids_BL.device
        # Column c of what is read is place c - shift of a row, and that is column c - shift + padding of the canvas.
        shift_R1 = self._prefix - self._begin_B[rows_R, None]
        length_R1 = canvas.real_BL[rows_R].sum(-1, keepdims=True)
        end = min(self._start + self._size, int((shift_R1 + length_R1).max()))
        first = self._cached
        places_RE = np.arange(end)[None] - shift_R1
        real_RE = (places_RE >= 0) & (places_RE < length_R1)
        columns_RQ = (places_RE[:, first:] + canvas.padding_B[rows_R, None]).clip(0, canvas.length - 1)
        ids_RQ = canvas.ids_BL[torch.from_numpy(rows_R).to(device)].gather(1, torch.from_numpy(columns_RQ).to(device))
        attention_RE = None if real_RE.all() else torch.from_numpy(real_RE).long().to(device)
        read_N = np.searchsorted(rows_R, row_N)  # which of the rows that are read
        place_N = canvas.place_BL[row_N, column_N] + shift_R1[read_N, 0] - first
        kept = self._starts(rows_R)
        if self._use_cache:
            kept["past_key_values"] = self._cache
        elif self._reader.is_guided:  # which hides a prompt by masks in blocks before
            kept["past_key_values"] = DynamicCache()
        flat_N = read_N * (end - first) + place_N
        logits = self._reader(ids_RQ, attention_RE, flat_N, rows_R, columns_RQ, **kept)
        if self._use_cache:
            # Where a token is predicted from the position before it, the one before the block is read again.
            self._cached = max(self._start - self._shift, 0)
            if self._cached:
                self._cache.crop(self._cached - end)
            else:
                self._cache = DynamicCache()  # a cropped one would know of as many rows as now
        return logits

    @property
    def _shift(self) -> int:
        return int(self._config.shift_logits)

    def _first(self, end: int) -> tuple[np.ndarray, np.ndarray]:
        """The first tokens of the only row, and the numbers of their blocks."""
        columns = slice(int(self._canvas.padding_B[0]), int(self._canvas.padding_B[0]) + end)
        return self._canvas.ids_BL[0, columns].cpu().numpy(), self._numbers_BL[0, columns]

    def _whole(self, row_N: np.ndarray, column_N: np.ndarray) -> Logits:
        """The same, from all of all rows."""
        canvas = self._canvas
        rows_B = np.arange(len(self._first_B))
        # A new cache says that masks of several blocks are no oversight.
        kept = self._starts(rows_B) | {"past_key_values": DynamicCache()}
        return self._reader(canvas.ids_BL, canvas.attention_BL, row_N * canvas.length + column_N, rows_B, **kept)

    def _starts(self, rows_R: np.ndarray) -> dict[str, Any]:
        if self._starts_B is None:
            return {}
        return {"answer_starts": torch.from_numpy(self._starts_B[rows_R]).to(self._canvas.ids_BL.device)}

    def _drop(self, finished_B: np.ndarray) -> None:
        """Read rows no more that are finished."""
        goes_on_G = ~finished_B[self._rows_G]
        if goes_on_G.all():
            return
        self._rows_G = self._rows_G[goes_on_G]
        if self._use_cache and self._cached:
            kept_G = np.concatenate([goes_on_G, goes_on_G]) if self._reader.is_guided else goes_on_G
            indices = torch.from_numpy(np.flatnonzero(kept_G)).to(self._canvas.ids_BL.device)
            self._cache.batch_select_indices(indices)  # with what a longer prompt has padded them by


__all__ = ["DiffusionBlocks"]
