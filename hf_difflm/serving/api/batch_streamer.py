"""Between ``generate`` and the rows of a batch: what is settled goes to those who wait, who has gone is dropped."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers.generation.streamers import BaseStreamer

from ...evaluation.generation.denoising_frames import MASK
from ...evaluation.generation.texts import GenerationStart
from .rows import Row

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class WayOfWriting:
    """How a model writes a text under some options.

    Args:
        settles: whether a token stays once it is there; False where the sampler masks some again.
        block_size: of a model with diffusion blocks, which are handed out whole; None of others.
        from_answer: whether those blocks begin at the text, and not at the prompt.
    """

    settles: bool = True
    block_size: int | None = None
    from_answer: bool = False

    def whole(self, settled: int, prompt_length: int) -> int:
        """How many of so many settled tokens stand in blocks that are full."""
        if self.block_size is None:
            return settled
        before = 0 if self.from_answer else prompt_length
        return max((before + settled) // self.block_size * self.block_size - before, 0)


class BatchStreamer(BaseStreamer):
    """Gets drafts of a denoiser, or one token after the other of a causal LM; a row that has ended is told at once.

    Rows whose prompts have holes get drafts; their texts are what ``generate`` returns.

    Args:
        start: prompts, and what is to come.
        rows: the rows of ``start``, in its order.
        decode: makes text of tokens.
        way: how the model writes.
        ends: tokens after which there is no text.
    """

    def __init__(
        self, start: GenerationStart, rows: Sequence[Row], decode: Decode, way: WayOfWriting, ends: frozenset[int]
    ) -> None:
        self._start, self._rows, self._decode, self._way, self._ends = start, rows, decode, way, ends
        self._begun = False
        self._seen = [0] * len(rows)
        self._new: list[list[int]] = [[] for _ in rows]

    def unwanted(self) -> np.ndarray:
        """(B,) bool: rows that have ended or that nobody waits for."""
        return np.array([row.unwanted for row in self._rows], dtype=bool)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then the text of a denoiser or the next (B,) tokens of a causal LM."""
        if not self._begun:
            self._begun = True
        elif self._start.mask_id is not None:
            self._take_all(value)
        else:
            for row, new, token in zip(self._rows, self._new, value.tolist(), strict=True):
                if not row.done:
                    new.append(token)
                    self._settled(row, new, complete=len(new) == self._start.new_tokens)

    def put_draft(self, value: torch.Tensor, **unused: object) -> None:
        """Take the (B, N) canvas from the first hole on."""
        new_tokens, mask_id = self._start.new_tokens, self._start.mask_id
        assert mask_id is not None
        new_BN = value[:, value.shape[1] - new_tokens :]
        # The first mask of each row; a column of masks is put behind, so that there is one.
        masked_BM = F.pad(torch.eq(new_BN, mask_id), (0, 1), value=True)
        settled_B = masked_BM.int().argmax(-1).tolist()
        for number, row in enumerate(self._rows):
            if row.unwanted:
                continue
            shows = row.streams and self._way.block_size is None
            if row.encoded.spans:
                row.tell(self._shown(self._whole(number, value[number])) if shows else None)
                continue
            ids = new_BN[number].tolist()
            draft = self._shown(itertools.takewhile(lambda token: token not in self._ends, ids)) if shows else None
            if self._way.settles:
                self._advance(number, ids[: settled_B[number]], draft)
            else:
                row.tell(draft)

    def end(self) -> None:
        """Nothing more comes: a causal LM's rows that have not ended are as long as they may be."""
        if self._start.mask_id is None:
            for row, new in zip(self._rows, self._new, strict=True):
                if not row.unwanted:
                    self._settled(row, new, complete=True)

    def _advance(self, number: int, ids: list[int], draft: str | None) -> None:
        """A row's settled tokens, of a denoiser."""
        row = self._rows[number]
        complete = len(ids) == self._start.new_tokens
        has_ended = complete or not self._ends.isdisjoint(ids[self._seen[number] :])
        self._seen[number] = len(ids)
        whole = len(ids) if has_ended else self._way.whole(len(ids), row.length)
        self._settled(row, ids[:whole], complete, draft)

    def _settled(self, row: Row, ids: list[int], complete: bool, draft: str | None = None) -> None:
        # Text is made where somebody reads it now: for one who waits for all of it, at its end.
        if complete or row.streams or row.text.stops or (ids and not self._ends.isdisjoint(ids)):
            row.text.take(ids, complete)
        row.tell(draft)

    def _take_all(self, value: torch.Tensor) -> None:
        for row, ids in zip(self._rows, value[:, value.shape[1] - self._start.new_tokens :].tolist(), strict=True):
            if not row.encoded.spans and not row.unwanted:
                self._settled(row, ids, complete=True)

    def _whole(self, number: int, from_first_hole: torch.Tensor) -> list[int]:
        """A row from its first token on."""
        ids_P, attention_P = self._start.ids_BP[number], self._start.attention_BP[number]
        first_hole = len(ids_P) + self._start.new_tokens - len(from_first_hole)
        return torch.cat([ids_P[:first_hole], from_first_hole])[int((attention_P == 0).sum()) :].tolist()

    def _shown(self, ids: Iterable[int]) -> str:
        """A text with ``▒`` for each mask."""
        runs = itertools.groupby(ids, key=lambda token: token == self._start.mask_id)
        return "".join(MASK * len(list(run)) if masked else self._decode(list(run)) for masked, run in runs)
