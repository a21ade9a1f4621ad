"""The files that are derived from a journal: rebuilt from it, each replaced in one step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ..journal.atomic_files import JOURNAL_NAME, document_name, metrics_name, write_text
from ..journal.reading import GrowingRun, read_journal
from ..journal.run import Run
from ..journal.strict_json import dumps
from .document import document_head, render_document, render_steps
from .metrics import build_metrics

# A rebuild writes whole files, so its cost grows; a wait of this many times its duration keeps it below 1 %.
_REST = 100


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
    return _write(run, journal.parent, render_steps(run.steps))


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


def _write(run: Run, folder: Path, steps: Sequence[str]) -> list[Path]:
    paths = derived_files(folder, run.name, run.headers[0].experiment_name)
    document, metrics = paths
    write_text(document, render_document(document_head(run), steps))
    write_text(metrics, dumps(build_metrics(run)) + "\n")
    return paths


class DerivedWriter:
    """Keep what is derived from a journal fresh at a cost below one per cent of one processor's time.

    Each rebuild reads what is new in the journal alone, and renders it alone.

    Args:
        journal: the journal.
    """

    def __init__(self, journal: Path) -> None:
        self._run = GrowingRun(journal)
        self._folder = journal.parent
        # The text of rows that have been written once; a run of this process does not change them.
        self._rendered: list[str] = []
        self._not_before = 0.0

    def write_if_due(self) -> bool:
        """Rebuild the files, unless the last rebuild was less than 100 times as long ago as it took; whether it did.

        Raises:
            UserError: the journal is gone or holds no run any more.
            OSError: a file cannot be written.
        """
        due = time.monotonic() >= self._not_before
        if due:
            self.write()
        return due

    def write(self) -> None:
        """Rebuild the files now.

        Raises:
            UserError: the journal is gone or holds no run any more.
            OSError: a file cannot be written.
        """
        start = time.monotonic()
        run, grown = self._run.read()
        self._rendered = self._rendered if grown else []
        self._rendered += render_steps(run.steps[len(self._rendered) :])
        _write(run, self._folder, self._rendered)
        end = time.monotonic()
        self._not_before = end + _REST * (end - start)
