"""How files and commands are named in what is shown or handed on: never by an absolute path of this machine."""

from __future__ import annotations

import re
from pathlib import Path

from ..journal.atomic_files import JOURNAL_NAME
from ..journal.run import Run

_ABSOLUTE = re.compile(r"(?:^|(?<=[\s='\"(\[,]))/(?:[^\s'\"/]+/)*([^\s'\"/]+)/?")


def relative(text: str) -> str:
    """Return a command or a setting with its absolute paths shortened.

    Paths inside the working folder become relative to it, others their last part.
    """
    return _ABSOLUTE.sub(lambda match: match.group(1), text.replace(f"{Path.cwd()}/", ""))


def shown(path: Path) -> str:
    """Return a path relative to the working folder, or else its last part."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else absolute.name


def typed(run: Run) -> str:
    """Return what to type here to name this run: its folder or file, relative where it lies below this folder."""
    path = _place(run)
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


def shown_run(run: Run) -> str:
    """Return the folder or file of a run as a page names it; see :func:`shown`."""
    return shown(_place(run))


def _place(run: Run) -> Path:
    return run.path.parent if run.path.name == JOURNAL_NAME else run.path
