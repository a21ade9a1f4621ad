"""Text of others in a model card: names, settings and samples are shown and never obeyed."""

from __future__ import annotations

import re

from ...runs.journal.tables import printable, shortened
from ...runs.reading.places import relative

_SPECIAL = re.compile(r"([\\`*_\[\]<>!|#~])")


def escaped(text: str) -> str:
    """Return one line in which markdown and HTML mean nothing."""
    return _SPECIAL.sub(r"\\\1", " ".join(printable(text).split()))


def code(value: object) -> str:
    """Return a value as a code span on one line, without absolute paths, cut to 60 characters; ``not set`` for None."""
    text = shortened(value if value is None else relative(str(value))).replace("`", "'").replace("|", "¦")
    return f"`{text}`" if text else "(empty)"


def table(rows: list[tuple[str, str]], headings: tuple[str, str]) -> str:
    """Return a table of two columns, the cells of which are markdown already."""
    lines = [headings, (":--", ":--"), *rows]
    return "\n".join(f"| {name} | {value} |" for name, value in lines)
