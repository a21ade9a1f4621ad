"""Numbers about a finished model go into the log of its run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs.derived.rebuild import write_derived
from ..runs.journal.append_only import Journal
from ..runs.journal.atomic_files import JOURNAL_NAME
from ..runs.journal.schema import MeasurementRecord


def run_folder(target: str) -> Path | None:
    """Return the folder of the run log that a run or one of its checkpoints has on this machine; None without one."""
    path = Path(target)
    if path.is_dir():
        for folder in (path, path.absolute().parent):
            if (folder / JOURNAL_NAME).exists():
                return folder
    return None


def record_measurement(target: str, step: int | None, source: str, metrics: Mapping[str, Any]) -> None:
    """Append numbers to the log of a run and rebuild what is derived from it; says on stderr why where it cannot be.

    Args:
        target: a run or one of its checkpoints; others have no log, and nothing happens.
        step: optimiser steps behind the model.
        source: what was measured, as in ``MeasurementRecord``.
        metrics: numbers by name, and what has to be known beside them.
    """
    folder = run_folder(target)
    if folder is None:
        return
    journal = Journal(folder / JOURNAL_NAME)
    try:
        journal.append(MeasurementRecord(iter=step or 0, source=source, metrics=dict(metrics)))
        journal.close()
        write_derived(journal.path)
    except (OSError, UserError) as error:  # a run that goes on, a folder that is read only, a full disk
        print(f"note: the numbers are not in the log of {folder} ({error})", file=sys.stderr)
    finally:
        journal.close()
