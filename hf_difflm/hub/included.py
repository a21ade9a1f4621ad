"""Further files of a run folder that the user asks for by a pattern."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import UserError
from ..models.file_names import PICKLES


def copy_included(source: Path, patterns: Sequence[str], target: Path) -> None:
    """Copy the files of ``source`` that match, each to the same place in ``target``.

    Hidden files match only a pattern that begins with a dot.

    Args:
        source: the folder that is pushed.
        patterns: globs relative to it, such as ``train.log`` or ``notes/*.md``.
        target: the folder that goes up.

    Raises:
        UserError: a pattern that leads out of the folder or matches nothing, a pickle, or a file that goes up anyway.
    """
    for pattern in patterns:
        for path in _matching(source, pattern):
            name = path.relative_to(source)
            if path.suffix.lower() in PICKLES:
                raise UserError(
                    f"--include {pattern} takes {name}, a pickle, which runs code when loaded; leave it out"
                )
            place = target / name
            if place.exists():
                raise UserError(
                    f"--include {pattern} takes {name}, in whose place a file of that name goes up; leave it out"
                )
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _matching(source: Path, pattern: str) -> list[Path]:
    parts = PurePosixPath(pattern).parts
    if not parts or PurePosixPath(pattern).is_absolute() or ".." in parts:
        raise UserError(
            f"--include {pattern!r} leads out of {source}; give a pattern relative to it, such as 'train.log'"
        )
    hidden = any(part.startswith(".") for part in parts)
    found = [
        path
        for path in sorted(source.glob(pattern))
        if path.is_file()
        and path.resolve().is_relative_to(source.resolve())
        and (hidden or not any(part.startswith(".") for part in path.relative_to(source).parts))
    ]
    if not found:
        raise UserError(f"--include {pattern!r} matches no file in {source}; check the pattern")
    return found
