"""The runs that were in a folder before the one that is there now, each with its journal under its own name."""

from __future__ import annotations

from pathlib import Path

from .atomic_files import JOURNAL_NAME, set_aside_name
from .reading import find_run
from .run import Run

_FIRST = b'{"type":"run"'


def set_aside_path(folder: Path, run_name: str) -> Path:
    """Return where the journal of an earlier run of a folder lies."""
    return folder / set_aside_name(run_name)


def earlier_journals(folder: Path) -> list[Path]:
    """Return the journals in a folder that are not of its newest run, that with the newest last line first."""
    found = [path for path in folder.glob("*.jsonl") if path.name != JOURNAL_NAME and _is_ours(path)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def run_of_checkpoint(folder: Path, step: int) -> Run | None:
    """Return the earlier run of a folder that saved a checkpoint at a step, the newest of several; None where none did."""
    runs = (find_run(path) for path in earlier_journals(folder))
    return next((run for run in runs if run is not None and saved_at(run, step)), None)


def saved_at(run: Run, step: int) -> bool:
    """Whether a run saved a checkpoint at a step."""
    return any(record.iter == step for record in run.checkpoints)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_FIRST)) == _FIRST
