"""A markdown page that says which command wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..journal.atomic_files import write_page
from ..journal.tables import fenced
from ..reading.places import relative


def write_markdown(
    path: Path, title: str, command: str, parts: Iterable[str], *, origin: str = "Generated from run logs"
) -> None:
    """Write title, where the page is from, and its parts. No absolute path of the command gets into it.

    Args:
        path: the markdown file; written in one step.
        title: first heading.
        command: what writes the page.
        parts: blocks of markdown; empty ones are left out.
        origin: where the numbers are from.

    Raises:
        UserError: the file cannot be written.
    """
    head = f"{origin}; do not edit. This page was written by\n\n{fenced(relative(command), 'sh')}"
    write_page(path, "\n\n".join(part for part in (f"# {title}", head, *parts) if part) + "\n", "--output")
