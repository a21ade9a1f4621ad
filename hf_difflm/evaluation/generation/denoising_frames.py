"""What a generation looks like while it happens: for each token whether it is masked, just written, or settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.generation.streamers import BaseStreamer

from .texts import GenerationStart

HIDDEN, GIVEN, MASKED, NEW, SETTLED = range(5)
"""States of a token; hidden are padding and special tokens."""
MASK = "▒"
"""Stands for a masked token."""


@dataclass(frozen=True)
class Frame:
    """Some texts after a step that changed them.

    Attributes:
        start: what was known before.
        number: 0 before the first step.
        ids_BL: tokens.
        state_BL: their states.
        final: whether this is the result.
    """

    start: GenerationStart
    number: int
    ids_BL: np.ndarray
    state_BL: np.ndarray
    final: bool

    def progress(self, row: int) -> tuple[int, int]:
        """Tokens of a row that were written by now, and all there are to write."""
        state_L = self.state_BL[row]
        given = int((self.start.attention_BP[row] == 1).sum()) - self._prompt_holes(row)
        total = given + self._prompt_holes(row) + self.start.new_tokens
        open_now = int((state_L == MASKED).sum()) if self.start.mask_id is not None else total - self._width(row)
        return total - given - open_now, total - given

    def _prompt_holes(self, row: int) -> int:
        if self.start.mask_id is None:
            return 0
        holes_P = (self.start.ids_BP[row] == self.start.mask_id) & (self.start.attention_BP[row] == 1)
        return int(holes_P.sum())

    def _width(self, row: int) -> int:
        """Tokens of a row, prompt and text, padding apart."""
        return int((self.start.attention_BP[row] == 1).sum()) + self.ids_BL.shape[1] - self.start.ids_BP.shape[1]


class FrameStreamer(BaseStreamer):
    """Makes frames of what ``generate`` streams: drafts of a denoiser, tokens of a causal LM.

    Args:
        start: prompts, and what is to come.
        on_frame: gets each frame.
    """

    def __init__(self, start: GenerationStart, on_frame: Callable[[Frame], None]) -> None:
        self._start, self._on_frame = start, on_frame
        self._number = 0
        self._begun = False
        ids_BL = start.ids_BP.numpy()
        if start.mask_id is not None:
            ids_BL = np.pad(ids_BL, ((0, 0), (0, start.new_tokens)), constant_values=start.mask_id)
        self._ids_BL = ids_BL
        padding_BP = start.attention_BP.numpy() == 0
        self._padding_BL = np.pad(padding_BP, ((0, 0), (0, ids_BL.shape[1] - padding_BP.shape[1])))
        self._holes_BL = (ids_BL == start.mask_id) & ~self._padding_BL if start.mask_id is not None else None

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then the text of a denoiser or the next (B,) tokens of a causal LM."""
        if not self._begun:
            self._begun = True
            self._emit(self._ids_BL)
        elif self._holes_BL is not None:
            self._emit(self._with_end(value), final=True)
        else:
            self._padding_BL = np.pad(self._padding_BL, ((0, 0), (0, 1)))
            self._emit(np.concatenate([self._ids_BL, value.numpy().reshape(-1, 1)], axis=1))

    def put_draft(self, value: torch.Tensor, **unused: Any) -> None:
        """Take the (B, N) canvas from the first hole on."""
        self._emit(self._with_end(value))

    def end(self) -> None:
        """The text of a causal LM is complete."""
        if self._holes_BL is None:
            self._emit(self._ids_BL, final=True)

    def _with_end(self, value: torch.Tensor) -> np.ndarray:
        ids_BL = self._ids_BL.copy()
        ids_BL[:, ids_BL.shape[1] - value.shape[1] :] = value.numpy()
        return ids_BL

    def _emit(self, ids_BL: np.ndarray, final: bool = False) -> None:
        state_BL = np.full(ids_BL.shape, SETTLED, dtype=np.uint8)
        if self._holes_BL is not None:
            state_BL[self._ids_BL != ids_BL] = NEW
            state_BL[~self._holes_BL] = GIVEN
            state_BL[self._holes_BL & (ids_BL == self._start.mask_id)] = MASKED
        else:
            state_BL[:, self._ids_BL.shape[1] :] = NEW
            state_BL[:, : self._start.ids_BP.shape[1]] = GIVEN
        if final:
            state_BL[state_BL == NEW] = SETTLED
        state_BL[self._padding_BL] = HIDDEN
        self._ids_BL = ids_BL
        self._on_frame(Frame(self._start, self._number, ids_BL, state_BL, final))
        self._number += 1


class TokenText:
    """The text of tokens one by one, so that each keeps its state.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = set(tokenizer.all_special_ids)

    def runs(self, ids_L: np.ndarray, state_L: np.ndarray) -> list[tuple[str, int]]:
        """Return (text, state) of neighbours in one state; ``MASK`` for each masked token."""
        runs: list[tuple[str, int]] = []
        for text, state in self._pieces(ids_L.tolist(), state_L.tolist()):
            if runs and runs[-1][1] == state:
                runs[-1] = (runs[-1][0] + text, state)
            elif text:
                runs.append((text, state))
        return runs

    def _pieces(self, ids: list[int], states: list[int]) -> Iterator[tuple[str, int]]:
        """Text by text. A character of several tokens is there with its last one, and as new as its newest."""
        before: list[int] = []  # tokens whose text is out already: a piece may depend on its neighbour
        pending: list[tuple[int, int]] = []
        for token, state in zip(ids, states, strict=True):
            if state in (MASKED, HIDDEN) or token in self._special:
                yield from self._rest(before, pending)
                before, pending = [], []
                if state == MASKED:
                    yield MASK, MASKED
                continue
            pending.append((token, state))
            text = self._new_text(before, pending)
            if text.endswith("\ufffd") and len(pending) < 4:
                continue
            yield text, _newest(pending)
            before, pending = [token for token, _ in pending], []
        yield from self._rest(before, pending)

    def _rest(self, before: list[int], pending: list[tuple[int, int]]) -> Iterator[tuple[str, int]]:
        if pending:
            yield self._new_text(before, pending), _newest(pending)

    def _new_text(self, before: list[int], pending: list[tuple[int, int]]) -> str:
        together = self._decode([*before, *(token for token, _ in pending)])
        return together[len(self._decode(before)) :] if before else together

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _newest(pending: list[tuple[int, int]]) -> int:
    states = {state for _, state in pending}
    return next(state for state in (NEW, SETTLED, GIVEN) if state in states)
