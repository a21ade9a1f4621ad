"""Read a journal back as a run: plainly where it is small, by columns where it is large."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path

from ..errors import UserError
from .journal import read_records
from .run import Run

logger = logging.getLogger(__name__)

# From here on pyarrow saves more time than its import takes; and than it takes to begin, where it has been imported.
_LARGE = 8 << 20
_WORTH_IT = 1 << 16


def find_run(path: Path) -> Run | None:
    """Return the run of a journal file; None where it holds no header.

    Raises:
        OSError: the file cannot be read.
    """
    enough = _WORTH_IT if "pyarrow.json" in sys.modules else _LARGE
    if path.stat().st_size < enough or importlib.util.find_spec("pyarrow") is None:
        return Run.from_records(path, *read_records(path))
    from .arrow_journal import ArrowReader

    reader = ArrowReader(path)
    run = Run.from_records(path, reader)
    if run is not None:
        run.damaged_lines = reader.damaged
    return run


def read_journal(path: Path) -> Run:
    """Return the run of a journal file.

    Raises:
        UserError: the file cannot be read or holds no header.
    """
    try:
        run = find_run(path)
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"the journal {str(path)!r} cannot be read ({error.strerror}); give a run folder") from error
    if run is None:
        found = "not one record of the kind 'run'" if size else "an empty file"
        raise UserError(f"{str(path)!r} is not the journal of a run (found {found}); give a run folder or its journal")
    if run.damaged_lines:
        logger.warning("%s: %d damaged lines were skipped", path, run.damaged_lines)
    return run
