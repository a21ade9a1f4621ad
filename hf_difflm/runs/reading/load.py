"""Read runs back: from folders, journals and JSON logs, ours and those of others; whole, partial or torn."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..journal.atomic_files import JOURNAL_NAME, METRICS_SUFFIX
from ..journal.reading import read_journal
from ..journal.run import Run
from ..journal.strict_json import loads
from .dashboard_names import FOLDER as DASHBOARD
from .foreign import epoch_losses, reader_of
from .partial_json import salvage

logger = logging.getLogger(__name__)

# Folders in a run folder that hold weights, and JSON files of transformers: no logs.
_NO_LOGS = ("checkpoint-", "best", ".", "__pycache__")


def load_run(path: str | Path) -> Run:
    """Return the run in a folder, a journal (``journal.jsonl``) or a JSON log.

    JSON logs are our document (``{run_name}.json``) and metrics (``{experiment}_metrics.json``), files of the same layout
    by other programs, and lists of one object a step with ``step`` and ``loss``. In a folder the journal is preferred to
    what is derived from it. Partial logs are read as far as they go, files that were cut off up to there.

    Raises:
        UserError: there is no run; the sentence says what was found instead.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise UserError(f"there is no run at {str(path)!r}; give a run folder, its {JOURNAL_NAME} or its JSON document")
    return read_journal(path) if path.suffix == ".jsonl" else _read_log(path)


def load_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[str]]:
    """Return all runs that the paths name, and a sentence for each that could not be read; the others still load.

    Args:
        paths: logs, run folders, folders of runs (searched to any depth) and globs, mixed. A run that is named twice is
            loaded once.
    """
    runs: list[Run] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for path in paths:
        for place in _expand(str(path)):
            try:
                for run in _runs_at(place, problems):
                    if (resolved := run.path.resolve()) not in seen:
                        seen.add(resolved)
                        runs.append(run)
            except UserError as error:
                problems.append(str(error))
    return runs, problems


def _expand(path: str) -> list[Path]:
    found = sorted(glob.glob(path, recursive=True)) if not os.path.exists(path) and glob.has_magic(path) else []
    return [Path(place) for place in found] or [Path(path)]


def _runs_at(place: Path, problems: list[str]) -> list[Run]:
    """The runs of one path; what is broken inside a folder becomes a problem.

    Raises:
        UserError: there is none.
    """
    if not place.is_dir() or (place / JOURNAL_NAME).exists():
        return [load_run(place)]
    runs: list[Run] = []
    before = len(problems)
    for folder, inside, names in os.walk(place):
        inside[:] = sorted(name for name in inside if not name.startswith(_NO_LOGS))
        if JOURNAL_NAME in names:
            inside[:] = [name for name in inside if name != DASHBOARD]  # tells of the same run
            try:
                runs.append(read_journal(Path(folder, JOURNAL_NAME)))
            except UserError as error:
                problems.append(str(error))
        else:
            runs += _logs_in(Path(folder), names, problems)
    if not runs and len(problems) == before:
        raise UserError(f"{str(place)!r} holds no run (found {_contents(place)}); give a folder of runs or a log")
    return runs


def _load_folder(folder: Path) -> Run:
    journal = folder / JOURNAL_NAME
    if journal.exists():
        return read_journal(journal)
    logs = _logs_in(folder, os.listdir(folder), [])
    if len(logs) == 1:
        return logs[0]
    if logs:
        names = ", ".join(run.path.name for run in logs)
        raise UserError(f"{str(folder)!r} holds {len(logs)} runs ({names}); name one of the files")
    inside = sorted(path.parent.name for path in folder.glob(f"*/{JOURNAL_NAME}"))
    if inside:
        raise UserError(f"{str(folder)!r} is not a run, but holds the runs {', '.join(inside)}; name one of them")
    found = _contents(folder)
    raise UserError(f"{str(folder)!r} is not a run (found {found}); give a folder with a {JOURNAL_NAME} in it")


def _contents(folder: Path) -> str:
    count = sum(1 for _ in folder.iterdir())
    return f"{count} other files and folders" if count else "an empty folder"


def _logs_in(folder: Path, names: Sequence[str], problems: list[str]) -> list[Run]:
    """The runs of the JSON logs in a folder without a journal; JSON files of other kinds are passed over."""
    runs: list[Run] = []
    for name in sorted(names):
        path = folder / name
        if not name.endswith(".json") or name.startswith(".") or not path.is_file():
            continue
        try:
            value, cut = _parse(path)
            if reader_of(value) is not None:
                runs.append(_run_of(path, value, cut))
        except UserError as error:
            problems.append(str(error))
    # Our two derived files tell of one run; the document knows more.
    started = {run.start_time for run in runs if not run.path.name.endswith(METRICS_SUFFIX) and run.start_time}
    return [run for run in runs if not (run.path.name.endswith(METRICS_SUFFIX) and run.start_time in started)]


def _read_log(path: Path) -> Run:
    """The run of a JSON log.

    Raises:
        UserError: the file is not JSON or not the log of a run.
    """
    return _run_of(path, *_parse(path))


def _parse(path: Path) -> tuple[Any, bool]:
    """The value of a JSON file and whether it was cut off.

    Raises:
        UserError: the file cannot be read, or is no JSON from its beginning on.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror}); give a run folder") from error
    try:
        return loads(content), False
    except ValueError as error:
        value = salvage(content.decode("utf-8", errors="replace"))
        if reader_of(value) is None:
            raise UserError(f"{str(path)!r} is not valid JSON ({error}); give a run folder or its journal") from error
        return value, True


def _run_of(path: Path, value: Any, cut: bool) -> Run:
    reader = reader_of(value)
    if reader is None:
        found = f"the keys {', '.join(list(value)[:5])}" if isinstance(value, dict) else type(value).__name__
        raise UserError(f"{str(path)!r} is not the log of a run (found {found}); give a run folder or its journal")
    try:
        run = Run.from_records(path, reader(value, path.stem))
        if run is not None:
            run.epoch_losses = epoch_losses(value)
    except (TypeError, AttributeError, ValueError, OverflowError) as error:  # rows of another kind
        raise UserError(f"{str(path)!r} is not the log of a run ({error}); give a run folder or its journal") from error
    if run is None:
        raise UserError(f"{str(path)!r} is not the log of a run (no header); give a run folder or its journal")
    if cut:
        logger.warning("%s is cut off: the %d steps before the cut were read", path, len(run.steps))
    return run
