"""What a stream is read from: pieces of text, each with the position one can come back to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from ..sources.articles import is_heading

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
