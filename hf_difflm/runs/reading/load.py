"""Read runs back: from folders, journals and logs, ours and those of others; whole, partial or torn."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import UserError
from ..foreign.recognition import KNOWN, is_generic, looks_like_log, read_log, run_of_events
from ..foreign.scalars import NoScalars
from ..journal.atomic_files import JOURNAL_NAME, METRICS_SUFFIX
from ..journal.reading import read_journal
from ..journal.run import Run
from ..journal.set_aside import earlier_journals
from .dashboard_names import FOLDER as DASHBOARD

# Folders in a run folder that hold weights, and JSON files of transformers: no logs.
_NO_LOGS = ("checkpoint-", "best", ".", "__pycache__")
_SUFFIXES = (".json", ".jsonl", ".csv", ".wandb")
_STATE = "trainer_state.json"
# Several logs of one training in one folder: the first of them that is there is read.
_SAME_TRAINING = (_STATE, "trainer_log.jsonl", "log_history.json", "metrics.jsonl", "metrics.json", "metrics.csv")
# Where a Trainer's trackers write, in the folder that has its log.
_TRACKERS = frozenset({"runs", "wandb", "logs", "tensorboard"})


def load_run(path: str | Path) -> Run:
    """Return the run in a folder, a journal (``journal.jsonl``) or a log of another program.

    What is read beside our journals, documents and metrics: ``trainer_state.json`` (the file, a checkpoint, an output
    folder), dumps of ``log_history``, ``trainer_log.jsonl``, ``metrics.jsonl``, TensorBoard's event files (a file or their
    folder), W&B's offline files, JSON and CSV of one row a step. Files are told by what is in them. In a folder the journal
    is preferred to what is derived from it. Partial logs are read as far as they go, files that were cut off up to there.

    Raises:
        UserError: there is no run; the sentence says what was found instead.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if not path.exists():
        raise UserError(
            f"there is no run at {str(path)!r}; give a run folder, its {JOURNAL_NAME} or another program's log"
        )
    return read_log(path)


def as_runs(runs: Run | str | Path | Sequence[Run | str | Path]) -> list[Run]:
    """Return runs of what people name them by in Python: runs themselves, and what :func:`load_run` takes; one or several.

    Raises:
        UserError: there is no run at a path.
    """
    several = [runs] if isinstance(runs, (Run, str, Path)) else runs
    return [run if isinstance(run, Run) else load_run(run) for run in several]


def load_runs(paths: Sequence[str | Path], earlier: bool = False) -> tuple[list[Run], list[str]]:
    """Return all runs that the paths name, and a sentence for each that could not be read; the others still load.

    Args:
        paths: logs, run folders, folders of runs (searched to any depth) and globs, mixed. A run that is named twice is
            loaded once.
        earlier: of a run folder that is named, also the runs that a later training there has set aside, not its newest
            alone.
    """
    runs: list[Run] = []
    problems: list[str] = []
    seen: set[Path] = set()
    for path in paths:
        for place in _expand(str(path)):
            try:
                for run in _runs_at(place, problems, earlier):
                    if (resolved := run.path.resolve()) not in seen:
                        seen.add(resolved)
                        runs.append(run)
            except UserError as error:
                problems.append(str(error))
    return runs, problems


def _expand(path: str) -> list[Path]:
    found = sorted(glob.glob(path, recursive=True)) if not os.path.exists(path) and glob.has_magic(path) else []
    return [Path(place) for place in found] or [Path(path)]


def _runs_at(place: Path, problems: list[str], earlier: bool) -> list[Run]:
    """The runs of one path; what is broken inside a folder becomes a problem.

    Raises:
        UserError: there is none.
    """
    if not place.is_dir() or ((place / JOURNAL_NAME).exists() and not earlier):
        return [load_run(place)]
    before = len(problems)
    runs = list(_runs_below(place, problems))
    if not runs and len(problems) == before:
        raise UserError(f"{str(place)!r} holds no run (found {_contents(place)}); give a folder of runs or a log")
    return runs


def _runs_below(place: Path, problems: list[str]) -> Iterator[Run]:
    """Yield the runs of a folder and of all folders in it; one of a training that was found is not yielded again."""
    tracked: list[Path] = []
    for name, inside, names in os.walk(place):
        folder = Path(name)
        if JOURNAL_NAME in names:
            inside[:] = sorted(name for name in inside if not name.startswith(_NO_LOGS) and not _is_dashboard(name))
            tracked += [folder / name for name in _TRACKERS]
            yield from _with_earlier(folder, problems)
            continue
        if _state_of(folder) is not None:
            tracked += [folder / name for name in _TRACKERS]
        yield from _logs_in(folder, names, problems, any(folder.is_relative_to(known) for known in tracked))
        inside[:] = sorted(name for name in inside if not name.startswith(_NO_LOGS))


def _is_dashboard(name: str) -> bool:
    return name == DASHBOARD or name.endswith(f"_{DASHBOARD}")  # the second of an earlier run


def _with_earlier(folder: Path, problems: list[str]) -> Iterator[Run]:
    """Yield the newest run of a folder, and those that another training there has set aside."""
    for path in (folder / JOURNAL_NAME, *earlier_journals(folder)):
        try:
            yield read_journal(path)
        except UserError as error:
            problems.append(str(error))


def _load_folder(folder: Path) -> Run:
    journal = folder / JOURNAL_NAME
    if journal.exists():
        return read_journal(journal)
    inside = sorted(path.parent.name for path in folder.glob(f"*/{JOURNAL_NAME}"))
    problems: list[str] = []
    logs = _logs_in(folder, os.listdir(folder), problems, False)
    if not logs and not inside:
        logs = list(_runs_below(folder, problems))
    if len(logs) == 1:
        return logs[0]
    if logs:
        names = ", ".join(str(run.path.relative_to(folder)) for run in logs)
        raise UserError(f"{str(folder)!r} holds {len(logs)} runs ({names}); name one of the files")
    if inside:
        raise UserError(f"{str(folder)!r} is not a run, but holds the runs {', '.join(inside)}; name one of them")
    if problems:
        raise UserError(problems[0])
    raise UserError(f"{str(folder)!r} is not a run (found {_contents(folder)}); give {KNOWN}")


def _contents(folder: Path) -> str:
    count = sum(1 for _ in folder.iterdir())
    return f"{count} other files and folders" if count else "an empty folder"


def _logs_in(folder: Path, names: Sequence[str], problems: list[str], tracked: bool) -> list[Run]:
    """The runs of the logs in a folder without a journal; files of other kinds are passed over.

    Args:
        folder: where they lie.
        names: its files.
        problems: what cannot be read is told here.
        tracked: whether what trackers have written here is of a training that was found.
    """
    runs: list[Run] = []
    state = _state_of(folder)
    same = next((name for name in _SAME_TRAINING if name in names), None)
    events: list[Path] = []
    for name in sorted(names):
        path = folder / name
        if name.startswith(".") or not (name.endswith(_SUFFIXES) or ".tfevents" in name) or not path.is_file():
            continue
        if tracked and (name.endswith(".wandb") or ".tfevents" in name):
            continue
        if name in _SAME_TRAINING and (state is not None or name != same):
            continue
        try:
            if not looks_like_log(path):
                if name.endswith(".csv"):
                    problems.append(
                        f"{str(path)!r} is left out: it has no column of steps or epochs beside one of losses"
                    )
                continue
            if ".tfevents" in name and is_generic(path):
                events.append(path)
            else:
                runs.append(read_log(path))
        except UserError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{str(path)!r} cannot be read ({error.strerror}); give {KNOWN}")
    try:
        if state is not None:
            runs.append(read_log(state))
        elif events and same is None:
            runs.append(run_of_events(events))
    except NoScalars:  # settings alone, as transformers writes them into a folder of their own
        pass
    except UserError as error:
        problems.append(str(error))
    # Our two derived files tell of one run; the document knows more.
    started = {run.start_time for run in runs if not run.path.name.endswith(METRICS_SUFFIX) and run.start_time}
    return [run for run in runs if not (run.path.name.endswith(METRICS_SUFFIX) and run.start_time in started)]


def _state_of(folder: Path) -> Path | None:
    """The state of the Trainer whose output folder, or whose checkpoint, this is: of the last checkpoint there is."""
    if (folder / _STATE).is_file():
        return folder / _STATE
    states = [path for path in folder.glob(f"checkpoint-*/{_STATE}") if path.parent.name[11:].isdecimal()]
    return max(states, key=lambda path: int(path.parent.name[11:]), default=None)
