"""Logs of finished runs without their weights, compressed: what a page was made from, small enough for a repository."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

from ...runs import Run
from ...runs.comparing.units import EVALUATION_FILE
from ...runs.journal.atomic_files import JOURNAL_NAME
from ...runs.journal.schema import COMPLETED
from ...runs.reading.places import relative

_HEADER = b'{"type":"run",'
_FILES = (JOURNAL_NAME, EVALUATION_FILE)
"""The journal, and what the best evaluation said of each document, by which runs are paired."""


def keep_logs(folder: Path, archive: Path, runs: Iterable[Run | None]) -> None:
    """Put the files of the finished ``runs`` of a folder into ``archive``, as ``{run}/{file}.gz``.

    Absolute paths are shortened: a data set that is a file is given by a path relative to where ablations are run.
    """
    for place in sorted({run.path.parent for run in runs if run is not None and run.status == COMPLETED}):
        for name in _FILES:
            file, kept = place / name, archive / place.relative_to(folder) / f"{name}.gz"
            if not file.exists():
                continue
            content = b"".join(map(_without_paths, file.read_bytes().splitlines(keepends=True)))
            if not (kept.exists() and gzip.decompress(kept.read_bytes()) == content):
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(gzip.compress(content, 9, mtime=0))


def _without_paths(line: bytes) -> bytes:
    """A header of a journal with its absolute paths shortened; another line as it is."""
    return relative(line.decode()).encode() if line.startswith(_HEADER) else line


def take_logs(archive: Path, folder: Path) -> None:
    """Unpack those of ``archive`` whose run is not in the folder."""
    for kept in sorted(archive.glob(f"*/{JOURNAL_NAME}.gz")):
        place = folder / kept.parent.name
        if place.exists():
            continue
        place.mkdir(parents=True)
        for file in sorted(kept.parent.glob("*.gz")):
            (place / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(file.read_bytes()))
