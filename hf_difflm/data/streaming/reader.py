"""Pieces of text to blocks of tokens, one stretch of the stream after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_difflm.errors import UserError

from ..encoding import DocumentEncoder
from ..sources.documents import document_key
from .sources import Piece, Position, Source

START: dict[str, Any] = {"position": None, "skip": 0, "separate": False, "passes": 0}
"""The state of a reader that has read nothing."""


@dataclass(frozen=True)
class LeftOut:
    """The documents that training does not see, since evaluation does.

    Attributes:
        fraction: share of all documents, chosen by their content hash.
        beyond: share of those with lower hashes, which is passed over.
        keys: the keys of further documents, see ``Documents.keys``.
    """

    fraction: float = 0.0
    keys: frozenset[int] = field(default_factory=frozenset)
    beyond: float = 0.0

    def __contains__(self, text: str) -> bool:
        if not self.fraction and not self.keys:
            return False
        key = document_key(text)
        return self.beyond * 2**64 <= key < (self.beyond + self.fraction) * 2**64 or key in self.keys


@dataclass
class _Tokens:
    """The tokens of a piece that are not yet in a block: all but the first ``taken``, separator included."""

    position: Position
    separate: bool
    passes: int
    ids: np.ndarray
    taken: int = 0


class StreamReader:
    """Reads a source again and again from its beginning, without end, as one stream of tokens.

    As in :class:`Packer`, EOS stands between two documents, also where a pass ends, where a document was left out and
    nowhere else. About ``tokens_per_chunk`` tokens are tokenised at a time; where the text is cut for that changes nothing.

    Args:
        state: of :attr:`state`, to go on from there; None: from the beginning.
    """

    def __init__(
        self,
        source: Source,
        encoder: DocumentEncoder,
        left_out: LeftOut,
        *,
        width: int,
        eos_token_id: int,
        tokens_per_chunk: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        state = state or START
        self.source = source
        self.encoder = encoder
        self.left_out = left_out
        self.width = width
        self.eos_token_id = eos_token_id
        self.tokens_per_chunk = tokens_per_chunk
        self._passes: int = state["passes"]
        self._separate: bool = state["separate"]  # whether EOS goes before the next piece, whatever that is
        self._first: bool = state["position"] is not None  # the piece that the state is about, whose EOS is settled
        self._skip: int = state["skip"]
        self._pieces = source.pieces(state["position"])
        self._begun = state["position"] is not None or state["passes"] > 0
        self._any_tokens = self._begun
        self._buffer: deque[_Tokens] = deque()
        self._buffered = 0
        self._done = self._passes
        self._letters_per_token = 1.0

    @property
    def state(self) -> dict[str, Any]:
        """Where the next block begins, as plain JSON."""
        if not self._buffer:
            self._fill(1)
        head = self._buffer[0]
        return {"position": head.position, "skip": head.taken, "separate": head.separate, "passes": head.passes}

    @property
    def passes(self) -> int:
        """How often the text has ended before what :meth:`read` returned last."""
        return self._done

    def read(self, num_blocks: int) -> np.ndarray:
        """Return the next blocks without their BOS: (num_blocks, width) int32.

        Raises:
            UserError: the source cannot be read, or holds no text for training.
        """
        need = num_blocks * self.width
        self._fill(need)
        stream = np.empty(need, dtype=np.int32)
        filled = 0
        while filled < need:
            head = self._buffer[0]
            self._done = head.passes
            part = head.ids[head.taken : head.taken + need - filled]
            stream[filled : filled + len(part)] = part
            filled += len(part)
            head.taken += len(part)
            if head.taken == len(head.ids):
                self._buffer.popleft()
        self._buffered -= need
        return stream.reshape(num_blocks, self.width)

    def one_pass(self, num_blocks: int) -> Iterator[np.ndarray]:
        """Yield blocks as :meth:`read` does, ``num_blocks`` at a time, until the pass ends; what fills no block is left.

        For a reader that has read nothing.
        """
        while True:
            self._fill(num_blocks * self.width)
            own = sum(len(one.ids) - one.taken for one in self._buffer if one.passes == 0)
            if own < self.width:
                return
            yield self.read(min(own // self.width, num_blocks))

    def _fill(self, tokens: int) -> None:
        while self._buffered < tokens:
            self._encode(self._chunk())

    def _chunk(self) -> list[tuple[Piece, bool]]:
        """The next pieces, about ``tokens_per_chunk`` tokens of them, each with whether EOS goes before it."""
        chunk: list[tuple[Piece, bool]] = []
        letters, most = 0, self.tokens_per_chunk * self._letters_per_token
        while letters < most:
            piece = next(self._pieces, None)
            if piece is None:
                if chunk:
                    return chunk  # of one pass
                self._next_pass()
                continue
            if not self._first and piece.text in self.left_out:
                self._separate = self._begun
                continue
            separate = self._separate if self._first else self._separate or (piece.starts and self._begun)
            self._first, self._separate = False, False
            self._begun = True
            chunk.append((piece, separate))
            letters += len(piece.text)
        return chunk

    def _next_pass(self) -> None:
        if not self._any_tokens:
            raise UserError(f"{self.source.name} holds no text to train on: give more text")
        self._passes += 1
        self._separate = True
        self._any_tokens = False
        self._pieces = self.source.pieces()

    def _encode(self, chunk: list[tuple[Piece, bool]]) -> None:
        texts = [piece.text for piece, _ in chunk]
        made = 0
        for (piece, separate), ids in zip(chunk, self.encoder.encode_ids(texts), strict=True):
            made += len(ids)
            if separate:
                ids = np.concatenate([np.array([self.eos_token_id], dtype=np.int32), ids])
            tokens = _Tokens(piece.position, separate, self._passes, ids, self._skip)
            self._skip = 0
            if len(ids) > tokens.taken:
                self._buffer.append(tokens)
                self._buffered += len(ids) - tokens.taken
        if made:
            self._any_tokens = True
            self._letters_per_token = sum(map(len, texts)) / made
