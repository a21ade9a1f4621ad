"""JSON logs by what is in them: documents of a run, losses, the state of a Trainer, rows of scalars; whole or cut off."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..journal.schema import CheckpointRecord, EventRecord, Record, RunRecord
from ..journal.strict_json import loads, plain
from .documents import read_document, read_losses
from .names import counts_epochs, counts_steps, is_evaluation, spelling
from .partial_json import salvage
from .scalars import NoScalars, read_rows

Reader = Callable[[Any, str, Path], list[Record]]
_HISTORIES = ("metrics_history", "metrics", "history", "log_history")
_STATE_SETTINGS = ("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "save_steps")
# In a folder a list is taken for a log where it says one of these; a data set may have a column of steps, too.
_TELLING = ("loss", "train_loss", "train/loss", "learning_rate", "train_runtime")


def parse(path: Path) -> tuple[Any, bool]:
    """Return the value of a JSON file, and whether it was cut off. ``NaN`` and infinities of a list of rows stay floats.

    Raises:
        UserError: the file cannot be read, or is no JSON from its beginning on.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror}); give a run folder") from error
    try:
        value = loads(content)
    except ValueError as error:
        value = salvage(content.decode("utf-8", errors="replace"))
        if reader_of(value) is None:
            raise UserError(f"{str(path)!r} is not valid JSON ({error}); give a run folder or its journal") from error
        return value, True
    if (b"NaN" in content or b"Infinity" in content) and reader_of(value) in (read_history, read_state):
        value = json.loads(content)  # a loss that was NaN is told from one that was not logged
    return value, False


def reader_of(value: Any) -> Reader | None:
    """Return what reads this JSON value as ``reader(value, name, path)``; None where it is no log that is known."""
    if isinstance(value, dict):
        if value.keys() >= {"run_name", "training_iterations"}:
            return lambda value, name, path: read_document(value, name)
        if value.keys() >= {"steps", "step_losses"} or value.keys() >= {"epochs", "epoch_losses"}:
            return lambda value, name, path: read_losses(value, name)
        if value.keys() >= {"log_history", "global_step"}:
            return read_state
    return read_history if _history(value) is not None else None


def is_log(value: Any) -> bool:
    """Whether a JSON value found in a folder is a log; a list of rows is where it has losses beside its steps."""
    reader = reader_of(value)
    if reader is not read_history:
        return reader is not None
    return tells_steps({name for row in _history(value) or () for name in row})


def tells_steps(names: Collection[str]) -> bool:
    """Whether rows of these names are those of a training: a data set may have a column of steps or epochs, too."""
    return (counts_steps(names) or counts_epochs(names)) and any(
        spelling(name) in _TELLING or is_evaluation(name) for name in names
    )


def read_state(state: dict[str, Any], name: str, path: Path) -> list[Record]:
    """Return the records of a Trainer's ``trainer_state.json``: its log, and the settings that it repeats.

    Raises:
        NoScalars: nothing was logged.
        TypeError: its log has rows of another kind.
    """
    rows = _rows(state["log_history"])
    if rows is None:
        raise NoScalars(f"its log_history is empty at step {state['global_step']}: no logging step was reached")
    settings = {key: state[key] for key in _STATE_SETTINGS if state.get(key) is not None}
    records = read_rows(rows, RunRecord(run_name=name, config=plain(settings)), path)
    done, planned = state["global_step"], state.get("max_steps")
    if isinstance(planned, int) and 0 < planned <= done and not any(isinstance(item, EventRecord) for item in records):
        records.append(EventRecord(event="completed", iter=done))
    best, at = state.get("best_model_checkpoint"), state.get("best_global_step")
    if isinstance(best, str) and isinstance(at, int):
        records.append(CheckpointRecord(iter=at, path=Path(best).name, val_loss=None))
    return records


def read_history(value: Any, name: str, path: Path) -> list[Record]:
    """Return the records of a list of one object a step: a Trainer's ``log_history``, a tracker's export, one's own.

    Raises:
        NoScalars: it has no steps, or nothing else.
        TypeError: a row without a step, or with a quantity of ours that is no number.
    """
    return read_rows(_history(value) or [], RunRecord(run_name=name), path)


def _history(value: Any) -> list[Mapping[str, Any]] | None:
    """The rows of a list of scalars, which may lie in an object, or be an object of columns."""
    if isinstance(value, dict):
        inner = next((value[key] for key in _HISTORIES if key in value), None)
        if inner is not None:
            return _history(inner)
        value = _turned(value)
    rows = _rows(value)
    return rows if rows is not None and (counts_steps(rows[0]) or tells_steps(rows[0].keys())) else None


def _rows(value: Any) -> list[Mapping[str, Any]] | None:
    return value if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value) else None


def _turned(columns: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows from an object of columns, which are lists or, as pandas writes them, objects by row."""
    if columns and all(isinstance(column, dict) for column in columns.values()):
        places = list(dict.fromkeys(place for column in columns.values() for place in column))
        rows = [{name: column.get(place) for name, column in columns.items()} for place in places]
        # A table of pandas has NaN where a row says nothing.
        return [{name: None if value != value else value for name, value in row.items()} for row in rows]
    lists = {key: column for key, column in columns.items() if isinstance(column, list)}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=False)] if lists else None
