"""The files that are derived from a journal: rebuilt from it, each replaced in one step."""

from __future__ import annotations

import time
from pathlib import Path

from ..errors import UserError
from .document import build_document, render_document
from .files import JOURNAL_NAME, document_name, metrics_name, write_text
from .journal_reading import read_journal
from .metrics import build_metrics
from .run import Run
from .strict_json import dumps

# A rebuild reads the whole journal, so its cost grows; a wait of this many times its duration keeps it to a third of 1 %.
_REST = 300


def derived_files(folder: Path, run_name: str, experiment_name: str | None = None) -> list[Path]:
    """Return the paths of a run's document and metrics in a folder."""
    return [folder / document_name(run_name), folder / metrics_name(experiment_name or run_name)]


def write_derived(journal: Path) -> list[Path]:
    """Rebuild document and metrics of a journal next to it, each in one step, and return their paths.

    Raises:
        UserError: the journal does not exist or has no header.
        OSError: a file cannot be written.
    """
    run = read_journal(journal)
    return _write(run, derived_files(journal.parent, run.name, run.headers[0].experiment_name))


def recover(path: str | Path) -> list[Path]:
    """Rebuild what is derived from a run's journal, after a crash or where it was switched off; return the paths.

    Args:
        path: the run folder or its journal.

    Raises:
        UserError: there is no journal, or it holds no run.
        OSError: a file cannot be written.
    """
    path = Path(path)
    journal = path / JOURNAL_NAME if path.is_dir() else path
    if not journal.is_file() or journal.suffix != ".jsonl":
        raise UserError(
            f"there is no journal at {str(path)!r} to recover from; give a run folder or its {JOURNAL_NAME}"
        )
    # A journal that is linked to lies with its documents elsewhere.
    return write_derived(journal.resolve())


def _write(run: Run, paths: list[Path]) -> list[Path]:
    document, metrics = paths
    write_text(document, render_document(build_document(run)))
    write_text(metrics, dumps(build_metrics(run)) + "\n")
    return paths


class DerivedWriter:
    """Keep what is derived from a journal fresh at a cost of at most a third of a per cent of the time.

    Args:
        journal: the journal.
        interval: optimiser steps between rebuilds; one also waits 300 times as long as the last rebuild took.
    """

    def __init__(self, journal: Path, interval: int) -> None:
        if interval < 1:
            raise UserError(f"log_save_interval is {interval}; give a number of steps of at least 1")
        self._journal = journal
        self._interval = interval
        self._last_step: int | None = None
        self._not_before = 0.0

    def step(self, step: int) -> None:
        """Rebuild the files if that is due after this many optimiser steps."""
        if self._last_step is None:
            self._last_step = step - 1
        if step - self._last_step >= self._interval and time.monotonic() >= self._not_before:
            self._last_step = step
            self.write()

    def write(self) -> None:
        """Rebuild the files now."""
        start = time.monotonic()
        write_derived(self._journal)
        end = time.monotonic()
        self._not_before = end + _REST * (end - start)
