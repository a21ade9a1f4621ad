"""What a stream is read from: pieces of text, each with the position one can come back to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from hf_difflm.errors import UserError

from ..sources.articles import is_heading
from ..sources.columns import missing_column
from ..sources.local_files import text_of_record

Position = dict[str, Any]
"""Where a piece begins; plain JSON, and meaningful to the source it came from alone."""


class Piece(NamedTuple):
    """A document, or a part of a long one.

    Attributes:
        position: gives this very piece again.
        text: empty only where rows are lines.
        starts: whether a document starts here; else the piece goes on where the one before it ended.
    """

    position: Position
    text: str
    starts: bool = True


class Source(Protocol):
    """Text that can be read from any position on.

    Attributes:
        name: for messages.
        fingerprint: changes when the text does, as far as that can be told without reading it all.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def pieces(self, position: Position | None = None) -> Iterator[Piece]:
        """Yield the pieces from ``position`` (None: the beginning) to the end, always the same ones.

        Raises:
            UserError: what is there cannot be read.
        """
        ...


class RowText(Protocol):
    """What the text of a row is.

    Attributes:
        fingerprint: changes when the text of some row does.
    """

    @property
    def fingerprint(self) -> str: ...

    def columns(self, schema: pa.Schema, where: str) -> list[str]:
        """Return which columns it reads; ``where`` is for messages.

        Raises:
            UserError: they are missing, or hold something else.
        """
        ...

    def text(self, row: Any, where: str) -> str:
        """Return the text of a row, empty where it has none; ``where`` is for messages.

        Raises:
            UserError: it cannot be used.
        """
        ...


@dataclass(frozen=True)
class TextColumn:
    """The text of a column."""

    name: str

    @property
    def fingerprint(self) -> str:
        return self.name

    def columns(self, schema: pa.Schema, where: str) -> list[str]:
        """See :class:`RowText`."""
        if self.name not in schema.names:
            raise missing_column(self.name, schema.names, where)
        kind = schema.field(self.name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise UserError(f"column {self.name!r} of {where} holds {kind}, not text: set text_column")
        return [self.name]

    def text(self, row: Any, where: str) -> str:
        """See :class:`RowText`."""
        return text_of_record(row, self.name, where)


class Articles:
    """WikiText, whose rows are lines, article by article."""

    def __init__(self, lines: Source) -> None:
        self.lines = lines
        self.name = lines.name
        self.fingerprint = f"articles of {lines.fingerprint}"

    def pieces(self, position: Position | None = None) -> Iterator[Piece]:
        """See :class:`Source`; a position is that of an article's first line."""
        first: Position | None = None
        lines: list[str] = []
        for piece in self.lines.pieces(position):
            if lines and is_heading(piece.text, lines[-1]):
                if text := "".join(lines):
                    yield Piece(first or {}, text)
                lines = []
            if not lines:
                first = piece.position
            lines.append(piece.text)
        if text := "".join(lines):
            yield Piece(first or {}, text)
