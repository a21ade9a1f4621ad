"""Texts from a file with one on each line."""

from __future__ import annotations

from pathlib import Path

from ...errors import UserError


def read_lines(path: str | Path, what: str) -> list[str]:
    """Return the lines of a UTF-8 file; an empty one is an empty text.

    Lines end where those of a pipe do: U+2028 or a form feed may stand inside a text. A byte order mark is left out.

    Args:
        path: the file.
        what: what stands on a line, as an error names it.

    Raises:
        UserError: the file cannot be read, is no UTF-8 text, or is empty.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{what} file {path} cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{what} file {path} is not UTF-8 text ({error.reason}); convert it") from error
    if not lines[-1]:  # nothing stands behind the newline of the last line
        lines.pop()
    if not lines:
        raise UserError(f"{what} file {path} is empty: write one {what} on each line")
    return lines
