"""Numbers and tables as people read them: in a terminal of any width and in markdown."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence

UNKNOWN = "-"
_MAX_CHARACTERS = 1200  # of a text in a page


def number(value: float | None, digits: int) -> str:
    """Return a number with this many decimals, ``-`` where it is unknown or not finite."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"


def count(value: float | None) -> str:
    """Return a whole number with thousands separators, ``-`` where it is unknown or not finite."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:,.0f}"


def significant(value: float) -> str:
    """Return a number with as many digits as say something: whole from a thousand on, four of smaller ones."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"


def with_error(value: float | None, stderr: float | None, digits: int = 4) -> str:
    """Return ``value ± stderr`` with this many decimals; the error is left out where it is unknown."""
    error = "0" if stderr == 0 else number(stderr, digits)
    return number(value, digits) if error == UNKNOWN or value is None else f"{number(value, digits)} ± {error}"


def duration(seconds: float | None) -> str:
    """Return seconds as ``850 ms``, ``12.3 s``, ``4 min 05 s``, ``3 h 07 min`` or ``2 d 03 h``, ``-`` where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24:02d} h"


def ago(seconds: float) -> str:
    """Return how long ago something was, in its largest unit: ``40 s ago``, ``5 min ago``, ``3 h ago``, ``2 d ago``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def shortened(value: object, characters: int = 60) -> str:
    """Return a setting's value on one line, cut to this many characters, ``not set`` for None."""
    text = "not set" if value is None else " ".join(printable(str(value)).split())
    return text if len(text) <= characters else text[: characters - 1] + "…"


def printable(text: str) -> str:
    """Return the text with control characters and lone surrogates shown as escapes, lines and tabs kept.

    A run's names and samples come from anywhere: none of them may drive the terminal or break a UTF-8 file.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in text)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return a table as plain text, one line a row.

    Where that is wider than ``width``: one column a row if that fits, and else several tables one below the other, each
    with the first column.
    """
    lines = [headings, *rows]
    for attempt in (lines, _turned(lines)):
        if _natural_width(attempt) <= width:
            return _render(attempt, width)
    columns = _turned(lines)
    tables = []
    left = columns[1:]
    while left:
        taken = len(left)
        while taken > 1 and _natural_width(_turned([columns[0], *left[:taken]])) > width:
            taken -= 1
        tables.append(_render(_turned([columns[0], *left[:taken]]), width))
        left = left[taken:]
    return "\n\n".join(tables)


def line_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return a table of one line a row whatever the width; the first column is folded where it must be."""
    return _render([headings, *rows], width)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Return a markdown table; the first ``left`` columns to the left, the rest to the right."""
    lines = [_markdown_line(headings), _markdown_line([":--"] * left + ["--:"] * (len(headings) - left))]
    return "\n".join(lines + [_markdown_line(row) for row in rows])


def fenced(text: str, language: str = "text") -> str:
    """Return a markdown code block that no text can break out of; control characters are shown, not obeyed.

    A text of more than 1,200 characters is cut.
    """
    text = text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " ..."
    text = printable(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


_GAP = 3


def _natural_width(lines: Sequence[Sequence[str]]) -> int:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return sum(widths) + _GAP * len(widths)


def _turned(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*lines, strict=True)]


def _render(lines: Sequence[Sequence[str]], width: int) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    fits = _natural_width(lines) <= width
    for place, heading in enumerate(lines[0]):
        # Numbers stay whole where there is room for them; it is the names that give way.
        whole = place > 0 and (fits or len(lines[0]) > 3)
        text = Text(printable(heading))
        table.add_column(text, justify="left" if place == 0 else "right", overflow="fold", no_wrap=whole)
    for line in lines[1:]:
        table.add_row(*(Text(printable(cell)) for cell in line))  # Text: brackets in a run's name are no markup
    output = io.StringIO()
    Console(file=output, width=width, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")


def _markdown_line(cells: Sequence[str]) -> str:
    escaped = (" ".join(printable(cell).replace("|", "\\|").replace("<", "&lt;").split()) for cell in cells)
    return f"| {' | '.join(escaped)} |"
