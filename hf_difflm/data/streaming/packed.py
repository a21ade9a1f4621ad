"""A stream whose rows hold several documents, each apart from the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ..collator import IGNORED
from ..packing.rows import packed_row, rows_of
from .blocks import BlockStream
from .reader import START, StreamReader

ROWS_AT_ONCE = 64
"""About so many rows are filled together: a document waits for room in these, and none is held for longer."""

Row = dict[str, np.ndarray]
Piece = tuple[np.ndarray, np.ndarray]
"""Ids and labels of a document, or of a part of one that is longer than a row."""


class Pieces(Protocol):
    """The pieces of a stream, one after the other, again and again."""

    @property
    def state(self) -> dict[str, Any]:
        """Where the next one begins, as plain JSON."""

    @property
    def passes(self) -> int:
        """How often the text has ended before what was read last."""

    def next(self) -> Piece:
        """Return the next piece."""

    def one_pass(self) -> Iterator[Piece]:
        """Yield the pieces of the first pass; of a stream of which nothing was read."""


class TokenPieces:
    """The documents of a stream of tokens, in which EOS ends each.

    Args:
        reader: reads tokens one by one, from where ``state`` says.
        size: tokens of a row.
        bos_token_id: what a piece begins with.
        skip: tokens of the reader's first chunk that were used before.
    """

    def __init__(self, reader: StreamReader, size: int, bos_token_id: int, skip: int = 0) -> None:
        assert reader.width == 1
        self.reader = reader
        self.size = size
        self.bos_token_id = bos_token_id
        self._tokens = np.zeros(0, dtype=np.int32)
        self._chunks: list[tuple[int, Any]] = []  # where in the tokens each chunk begins, and the state there
        while skip > len(self._tokens):
            self._read_on()
        self._take(skip)

    @property
    def passes(self) -> int:
        return self.reader.passes

    @property
    def state(self) -> dict[str, Any]:
        if not len(self._tokens):
            self._read_on()
        start, state = next(chunk for chunk in reversed(self._chunks) if chunk[0] <= 0)
        return {"chunk": state, "skip": -start}

    def next(self) -> Piece:
        while (found := self._piece()) is None:
            self._read_on()
        return found

    def one_pass(self) -> Iterator[Piece]:
        for ids_T1 in self.reader.one_pass(self.reader.tokens_per_chunk):
            self._tokens = np.concatenate([self._tokens, ids_T1[:, 0]])
            while (found := self._piece()) is not None:
                yield found
        self._tokens = np.append(self._tokens, np.int32(self.reader.eos_token_id))  # no other document makes one come
        while (found := self._piece()) is not None:
            yield found

    def _read_on(self) -> None:
        state = self.reader.state
        self._chunks.append((len(self._tokens), state))
        self._tokens = np.concatenate([self._tokens, self.reader.read(self.reader.tokens_per_chunk)[:, 0]])

    def _take(self, count: int) -> np.ndarray:
        taken, self._tokens = self._tokens[:count], self._tokens[count:]
        self._chunks = [(start - count, state) for start, state in self._chunks]
        begun = [number for number, (start, _) in enumerate(self._chunks) if start <= 0]
        self._chunks = self._chunks[begun[-1] :] if begun else self._chunks
        return taken

    def _piece(self) -> Piece | None:
        """The next piece; None where too little was read to know where it ends."""
        width, eos = self.size - 1, self.reader.eos_token_id
        if len(self._tokens) and self._tokens[0] == eos:  # of nothing: what it ends was left out
            self._take(1)
        ends = np.flatnonzero(self._tokens[: width + 1] == eos)
        if len(ends) and ends[0] < width:
            ids = self._take(int(ends[0]) + 1)
        elif len(self._tokens) >= width:  # what is left of the document is another piece; EOS alone is none
            ids = self._take(width)
        else:
            return None
        ids_T = np.insert(ids, 0, self.bos_token_id)
        labels_T = ids_T.copy()
        labels_T[0] = IGNORED
        return ids_T, labels_T


class PackedReader:
    """Fills rows with pieces, about ``ROWS_AT_ONCE`` of them at a time.

    Args:
        pieces: opens the pieces from where a state of theirs says.
        size: tokens of a row.
        how: see :class:`~hf_difflm.data.packing.rows.OpenRows`.
        state: of :attr:`state`, to go on from there; None: from the beginning.
    """

    def __init__(self, pieces: Any, size: int, how: str, state: dict[str, Any] | None = None) -> None:
        state = state or {"pieces": None, "number": 0, "row": 0}
        self._pieces: Pieces = pieces(state["pieces"])
        self.size = size
        self.how = how
        self._number: int = state["number"]  # of the next piece in the stream
        self._rows: list[Row] = []
        self._taken: int = state["row"]  # of the rows that are to come, where there are none yet
        self._begin: dict[str, Any] = {}

    @property
    def state(self) -> dict[str, Any]:
        """Where the next row begins, as plain JSON."""
        if self._taken >= len(self._rows):
            self._fill()
        return {**self._begin, "row": self._taken}

    @property
    def passes(self) -> int:
        """How often the text has ended before what :meth:`read` returned last."""
        return self._pieces.passes

    def read(self, num_rows: int) -> list[Row]:
        """Return the next rows.

        Raises:
            UserError: the source cannot be read, or holds no text for training.
        """
        found: list[Row] = []
        while len(found) < num_rows:
            if self._taken >= len(self._rows):
                self._fill()
            part = self._rows[self._taken : self._taken + num_rows - len(found)]
            found += part
            self._taken += len(part)
        return found

    def one_pass(self, num_rows: int) -> Iterator[list[Row]]:
        """Yield rows, at most ``num_rows`` at a time, until the pass ends; for a reader that has read nothing."""
        held: list[Piece] = []
        for piece in self._pieces.one_pass():
            held.append(piece)
            if self._is_enough(held):
                yield from _parts(self._packed(held), num_rows)
                held = []
        yield from _parts(self._packed(held), num_rows)

    def _fill(self) -> None:
        self._taken -= len(self._rows)
        self._begin = {"pieces": self._pieces.state, "number": self._number}
        held: list[Piece] = []
        while not self._is_enough(held):
            held.append(self._pieces.next())
        self._rows = self._packed(held)

    def _is_enough(self, held: list[Piece]) -> bool:
        return sum(len(ids) for ids, _ in held) >= ROWS_AT_ONCE * self.size

    def _packed(self, held: list[Piece]) -> list[Row]:
        rows = rows_of([len(ids) for ids, _ in held], self.size, self.how)
        first, self._number = self._number, self._number + len(held)
        return [packed_row([(first + piece, *held[piece]) for piece in row]) for row in rows]


class PackedStream(BlockStream):
    """The rows of a stream by their number, see :class:`BlockStream`.

    Args:
        packing: ``documents`` or ``best-fit``.
    """

    holds_documents = True

    def __init__(self, *args: Any, packing: str, **kwargs: Any) -> None:
        self.packing = packing
        super().__init__(*args, **kwargs)

    def _open(self, state: dict[str, Any] | None = None) -> PackedReader:
        return PackedReader(self._open_pieces, self.block_size, self.packing, None if state == START else state)

    def _open_pieces(self, state: dict[str, Any] | None) -> Pieces:
        begin: dict[str, Any] = {"chunk": None, "skip": 0} if state is None else state
        reader = StreamReader(
            self.source,
            self.encoder,
            self.left_out,
            width=1,
            eos_token_id=self.eos_token_id,
            tokens_per_chunk=self.tokens_per_chunk,
            state=begin["chunk"],
        )
        return TokenPieces(reader, self.block_size, self.bos_token_id, begin["skip"])

    def _row(self, blocks: Any, place: int) -> Row:
        return {name: values.copy() for name, values in blocks[place].items()}

    def _finished(self, blocks: Any) -> Any:
        return blocks


def _parts(rows: list[Row], size: int) -> Iterator[list[Row]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
