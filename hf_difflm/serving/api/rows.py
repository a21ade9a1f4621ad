"""One text that a client waits for: what is asked, and the box through which the model's thread tells how it goes."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...evaluation.generation.holes import PromptIds
from ...evaluation.generation.options import GenerationOptions
from ...evaluation.generation.texts import Importance
from .growing_text import GrowingText
from .refusals import Refusal, rewritten

MOST_WAITING = 64
"""Pieces in a box after which they are joined: a client that reads slowly costs no memory."""


@dataclass(frozen=True)
class Piece:
    """What is new of a text.

    Attributes:
        delta: text to append.
        draft: the whole text as it is now, ``▒`` for each mask; None of a model that writes from the left.
        reason: why it ended; None while it goes on.
        tokens: of the text, once it has ended.
        fills: what stands in the holes of the prompt, once it has ended.
        refusal: why there is no text.
    """

    delta: str = ""
    draft: str | None = None
    reason: str | None = None
    tokens: int = 0
    fills: tuple[str, ...] | None = None
    refusal: Refusal | None = None

    @property
    def last(self) -> bool:
        """Whether nothing comes after it."""
        return self.reason is not None or self.refusal is not None


class Box:
    """Pieces of one row, from the model's thread to that of the server.

    Args:
        wake: called after each piece, in the model's thread.
    """

    def __init__(self, wake: Callable[[], Any]) -> None:
        self._wake, self._pieces, self._lock = wake, deque[Piece](), threading.Lock()

    def put(self, piece: Piece) -> None:
        """Put a piece in; where too many wait, the last of them takes it up."""
        with self._lock:
            if len(self._pieces) >= MOST_WAITING and not piece.last:
                before = self._pieces.pop()
                piece = dataclasses.replace(piece, delta=before.delta + piece.delta, draft=piece.draft or before.draft)
            self._pieces.append(piece)
        self._wake()

    def take(self) -> list[Piece]:
        """Take out all there are."""
        with self._lock:
            taken = list(self._pieces)
            self._pieces.clear()
        return taken


@dataclass(eq=False)
class Row:
    """One text to write.

    Args:
        prompt: as text.
        encoded: as the model gets it.
        options: how; without the seed.
        new_tokens: most tokens to come.
        seed: of this row alone.
        text: takes what is settled.
        box: gets the pieces.
        deadline: when it is too late, by ``time.monotonic()``.
        streams: whether pieces are wanted before the end.
        importance: weighs positions for the uncertainty sampler.

    Attributes:
        gone: nobody waits for it any more; set by the server, and read before each step.
        begun: when the model took it up.
        done: whether the last piece is in the box.
    """

    prompt: str
    encoded: PromptIds
    options: GenerationOptions
    new_tokens: int
    seed: int
    text: GrowingText
    box: Box
    deadline: float
    streams: bool = False
    importance: Importance | None = None
    gone: bool = field(default=False, init=False)
    done: bool = field(default=False, init=False)
    _sent: str = field(default="", init=False)

    def __post_init__(self) -> None:
        # The prompt is encoded: whether its masks were holes or letters makes no difference any more.
        asked = dataclasses.asdict(dataclasses.replace(self.options, seed=0, infill=None))
        self.settings = json.dumps([asked, self.new_tokens, bool(self.encoded.spans)], sort_keys=True)
        self.arrived = time.monotonic()

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.encoded.ids)

    @property
    def unwanted(self) -> bool:
        """Whether the model need not go on with it."""
        return self.done or self.gone or time.monotonic() > self.deadline

    def tell(self, draft: str | None = None) -> None:
        """Put what is settled beyond the last time into the box, and the draft; who does not stream gets all at the end."""
        ended = self.text.reason is not None
        if self.done or not (ended or self.streams):
            return
        if not self.text.text.startswith(self._sent):  # of a tokenizer whose text of some tokens depends on later ones
            self.finish(Piece(refusal=rewritten()))
            return
        delta, self._sent = self.text.text[len(self._sent) :], self.text.text
        self.done = ended
        if ended or delta or draft is not None:
            self.box.put(Piece(delta, draft, self.text.reason, self.text.tokens if ended else 0))

    def finish(self, piece: Piece) -> None:
        """Put a last piece into the box, unless there is one."""
        if not self.done:
            self.done = True
            self.box.put(piece)
