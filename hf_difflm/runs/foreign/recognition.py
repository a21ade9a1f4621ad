"""Which log a file is, told by what is in it, and its run."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from ...errors import UserError
from ..journal.atomic_files import JOURNAL_NAME
from ..journal.reading import read_journal
from ..journal.run import Run
from ..journal.schema import Record, is_type
from .documents import epoch_losses
from .event_files import is_event_file, read_event_files
from .json_logs import is_log, parse, reader_of, tells_steps
from .lines import read_csv, read_json_lines
from .scalars import NoScalars
from .wandb_files import is_wandb_file, read_wandb_file

logger = logging.getLogger(__name__)

KNOWN = (
    "a run folder, its journal or JSON document; of other programs trainer_state.json, a dump of log_history, "
    "trainer_log.jsonl, metrics.jsonl, TensorBoard event files, *.wandb files, and JSON or CSV of rows with a step "
    "or an epoch"
)
"""The logs that are read, as sentences say it."""
# Files of these names are called after their folder, and weights lie in folders of that one.
_GENERIC = frozenset({"trainer_state", "trainer_log", "log_history", "metrics", "history", "log"})
_EVENTS = "events.out.tfevents."
_CHECKPOINT = "checkpoint-"
_HEAD = 1 << 16


def read_log(path: Path) -> Run:
    """Return the run of a log file of any program.

    Raises:
        UserError: it cannot be read, or is no log that is known; the sentence says what was found.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if is_event_file(head):
            return run_of_events([path])
        if is_wandb_file(head):
            records, cut = read_wandb_file(path, name_of(path))
            return _run_of(path, records, "the file ends within a record" if cut else "")
        if path.name == JOURNAL_NAME or _is_journal(head):
            return read_journal(path)
        if path.suffix == ".jsonl" or _is_json_lines(head):
            records, damaged = read_json_lines(_text(path), name_of(path), path)
            return _run_of(path, records, f"{damaged} lines are no JSON object and were skipped" if damaged else "")
        if head.lstrip()[:1] in (b"{", b"[") or path.suffix == ".json":
            return _read_json(path)
        if b"\x00" in head:
            raise NoScalars("found neither text nor a file of TensorBoard or W&B")
        return _run_of(path, read_csv(_text(path), name_of(path), path))
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror}); give {KNOWN}") from error
    except (TypeError, AttributeError, ValueError, OverflowError) as error:  # rows of another kind
        raise UserError(f"{str(path)!r} is not the log of a run ({error}); give {KNOWN}") from error


def run_of_events(paths: list[Path]) -> Run:
    """Return the run of TensorBoard's event files, all of one folder.

    Raises:
        NoScalars: there is no scalar in them.
        OSError: one cannot be read.
    """
    records, cut = read_event_files(paths, name_of(paths[0]))
    return _run_of(paths[0], records, f"{', '.join(path.name for path in cut)} ends within a record" if cut else "")


def is_generic(path: Path) -> bool:
    """Whether many runs have a log of this name, each in a folder of its own."""
    return path.stem in _GENERIC or path.name.startswith(_EVENTS)


def looks_like_log(path: Path) -> bool:
    """Whether a file that was found in a folder is a log: a table of rows is where it has losses beside its steps.

    Raises:
        UserError: a JSON file that cannot be parsed.
        OSError: it cannot be read.
    """
    if path.suffix == ".json":
        return is_log(parse(path)[0])
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if is_event_file(head) or is_wandb_file(head):
        return True
    first = head.split(b"\n", 1)[0].decode("utf-8-sig", "replace")
    if path.suffix == ".csv":
        return tells_steps({name.strip() for name in first.replace(";", ",").replace("\t", ",").split(",")})
    return path.suffix == ".jsonl" and tells_steps(_first_object(head) or ())


def name_of(path: Path) -> str:
    """Return what the run of a log is called that does not say it: the file, or its folder where the file's name is common.

    The log of a checkpoint is called after the output folder.
    """
    if not is_generic(path):
        return path.stem
    folder = path.absolute().parent
    return (folder.parent if folder.name.startswith(_CHECKPOINT) else folder).name or path.stem


def _read_json(path: Path) -> Run:
    value, cut = parse(path)
    reader = reader_of(value)
    if reader is None:
        found = f"the keys {', '.join(list(value)[:5])}" if isinstance(value, dict) else type(value).__name__
        raise NoScalars(f"found {found}")
    run = _run_of(path, reader(value, name_of(path), path), "it is cut off" if cut else "")
    run.epoch_losses = epoch_losses(value)
    return run


def _run_of(path: Path, records: list[Record], warning: str = "") -> Run:
    run = Run.from_records(path, records)
    if run is None:
        raise NoScalars("no header")
    if warning:
        logger.warning("%s: %s; the %d steps that are whole were read", path, warning, len(run.steps))
    return run


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _is_journal(head: bytes) -> bool:
    first = _first_object(head)
    return first is not None and is_type(first.get("type"))


def _is_json_lines(head: bytes) -> bool:
    return _first_object(head) is not None and b"\n" in head.strip()


def _first_object(head: bytes) -> dict[str, object] | None:
    """The JSON object that is the first line; None where it is something else."""
    try:
        value = json.loads(head.lstrip().split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
