"""A training in a folder that holds a run already: the earlier one is set aside, and the new one has a name of its own.

The newest run is the folder's, as its checkpoints are: ``journal.jsonl``. An earlier one keeps its JSON files; its journal
becomes ``{run_name}.jsonl``, its pictures ``{run_name}_dashboard``, its text log ``{run_name}.log``.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from ...runs.derived.rebuild import derived_files
from ...runs.journal.append_only import Journal
from ...runs.journal.atomic_files import JOURNAL_NAME
from ...runs.journal.run import Run
from ...runs.journal.set_aside import run_of_checkpoint, saved_at, set_aside_path
from ...runs.reading.dashboard_names import FOLDER as DASHBOARD
from .log_lines import TEXT_LOG_NAME

logger = logging.getLogger(__name__)


def set_aside(journal: Journal, run: Run) -> None:
    """Give what a run has written names of its own, and lock the new journal that takes its place.

    Args:
        journal: open, and locked: nothing of a run that is alive is touched.
        run: what is in it.

    Raises:
        OSError: a file cannot be renamed, or one is in the way.
    """
    folder = journal.path.parent
    aside = set_aside_path(folder, run.name)
    if aside.exists():
        raise OSError(errno.EEXIST, f"{aside.name!r} is in the way", str(aside))
    for newest, earlier in _names(folder, run.name):
        if newest.exists() and not earlier.exists():  # pictures that someone has drawn of the JSON file stay
            newest.rename(earlier)
    journal.close()
    journal.open()


def of_checkpoint(journal: Journal, run: Run, step: int) -> Run:
    """Return the run of a folder that the checkpoint at a step is of: where it is an earlier one, they change places.

    Args:
        journal: open.
        run: what is in it.
        step: optimiser steps of the checkpoint that training goes on from.

    Raises:
        OSError: something cannot be renamed.
    """
    folder = journal.path.parent
    earlier = None if saved_at(run, step) else run_of_checkpoint(folder, step)
    if earlier is None:
        return run
    set_aside(journal, run)
    for newest, aside in _names(folder, earlier.name):
        if aside.exists():
            aside.replace(newest)
    journal.close()
    journal.open()
    logger.warning("the checkpoint at step %d is of the run %r, which is gone on with", step, earlier.name)
    return earlier


def free_names(folder: Path, name: str, experiment: str | None, before: str | None) -> tuple[str, str | None]:
    """Return the names of a new run and its experiment, with ``-2``, ``-3``, ... after them where a run has them already.

    Args:
        folder: of the run log.
        name: of the run, as it would be in an empty folder.
        experiment: likewise.
        before: name of the run that has just been set aside; None where there was none, or it was replaced.
    """
    number, wanted, labelled = 1, name, experiment
    while set_aside_path(folder, wanted).exists() or (
        before is not None and any(path.exists() for path in derived_files(folder, wanted, labelled))
    ):
        number += 1
        wanted, labelled = f"{name}-{number}", f"{experiment}-{number}" if experiment else experiment
    return wanted, labelled


def _names(folder: Path, run_name: str) -> Iterator[tuple[Path, Path]]:
    aside = set_aside_path(folder, run_name)
    yield folder / JOURNAL_NAME, aside
    yield folder / DASHBOARD, aside.with_name(f"{aside.stem}_{DASHBOARD}")
    yield folder / TEXT_LOG_NAME, aside.with_suffix(os.path.splitext(TEXT_LOG_NAME)[1])
