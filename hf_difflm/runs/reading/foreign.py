"""Turn the JSON logs of programs into the records of a journal: documents as ours, flat losses, lists of metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from ..journal.schema import (
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    MeasurementRecord,
    Record,
    RunRecord,
    SampleRecord,
    StepRecord,
    decode,
)

Reader = Callable[[Any, str], list[Record]]

_LISTS = {
    "events": EventRecord.type,
    "checkpoints": CheckpointRecord.type,
    "samples": SampleRecord.type,
    "measurements": MeasurementRecord.type,
}
_EVAL_STEP_KEYS = {"iter", "train_loss", "val_loss", "val_loss_stderr", "lr", "timestamp", "time_ms", "tokens_seen"}
# Names of a quantity in lists of metrics, the schema's first.
_SYNONYMS = {
    "iter": ("iter", "step", "global_step", "iteration"),
    "loss": ("loss", "train_loss"),
    "accuracy": ("accuracy", "acc"),
    "tokens_per_sec": ("tokens_per_sec", "tokens_per_second", "throughput"),
    "lr": ("lr", "learning_rate"),
    "time": ("time", "timestamp"),
}
_HISTORIES = ("metrics_history", "metrics", "history")
_UNKNOWN_MFU = -100.0


def reader_of(value: Any) -> Reader | None:
    """Return what reads this JSON value as ``reader(value, name)``; None where it is no log that is known."""
    if isinstance(value, dict):
        if value.keys() >= {"run_name", "training_iterations"}:
            return read_document
        if value.keys() >= {"steps", "step_losses"} or value.keys() >= {"epochs", "epoch_losses"}:
            return read_losses
    return read_history if _history(value) is not None else None


def read_document(document: dict[str, Any], name: str) -> list[Record]:
    """Return the journal that would give this document; see :func:`~hf_difflm.runs.derived.document.build_document`.

    Raises:
        TypeError, AttributeError, ValueError: rows that are no objects or lack their step.
    """
    header = {key: value for key, value in document.items() if key not in ("type", "time", "nonfinite")}
    for key in ("training_iterations", "eval_steps", "checkpoints", "samples", "measurements", "events", "summary"):
        header.pop(key, None)
    for key in ("config", "data", "model", "metadata"):
        if not isinstance(header.get(key, {}), dict):
            header.pop(key)
    records: list[Record | None] = [
        decode({**header, "type": RunRecord.type, "time": _time(document.get("start_time"))})
    ]
    # Events first: what a resume superseded is gone from a document already.
    for key, kind in _LISTS.items():
        rows = document.get(key) or ()
        records += [decode({**row, "type": kind, "time": _time(row.get("timestamp"))}) for row in rows]
    for row in document.get("eval_steps") or ():
        metrics = {key: value for key, value in row.items() if key not in _EVAL_STEP_KEYS}
        if "eval_nll" not in metrics:
            metrics.setdefault("eval_loss", row.get("val_loss"))
        known = {key: row[key] for key in ("train_loss", "lr", "time_ms", "tokens_seen") if key in row}
        line = {"iter": row.get("iter"), "metrics": metrics, "time": _time(row.get("timestamp")), **known}
        records.append(decode({**line, "type": EvaluationRecord.type}))
    for row in document["training_iterations"]:
        row = dict(row, mfu=None) if row.get("mfu") == _UNKNOWN_MFU else row
        records.append(decode({**row, "type": StepRecord.type}))
    if not document.get("events") and document.get("end_time"):
        records.append(EventRecord(event="completed", time=_time(document["end_time"])))
    return [record for record in records if record is not None]


def read_losses(metrics: dict[str, Any], name: str) -> list[Record]:
    """Return the journal of a file of losses; see :func:`~hf_difflm.runs.derived.metrics.build_metrics`.

    Without step losses each epoch is one row.

    Raises:
        TypeError, ValueError: lists of something else than numbers.
    """
    model = metrics.get("model_type")
    records: list[Record] = [
        RunRecord(
            run_name=str(metrics.get("experiment_name") or name),
            objective=str(model).lower() if model else None,
            time=_time(metrics.get("start_time")),
        )
    ]
    by_step = bool(metrics.get("steps"))
    places = metrics.get("steps" if by_step else "epochs") or []
    losses = metrics.get("step_losses" if by_step else "epoch_losses") or []
    last = 0
    for place, loss in zip(places, losses, strict=False):  # a file that was cut off has fewer losses
        epoch = None if by_step else float(place)
        line = {"iter": place, "steps": max(place - last, 1), "loss": loss, "epoch": epoch, "type": StepRecord.type}
        record = decode(line)
        last = place
        if record is not None:
            records.append(record)
    if metrics.get("end_time"):
        records.append(EventRecord(event="completed", time=_time(metrics["end_time"])))
    return records


def epoch_losses(metrics: Any) -> dict[int, float]:
    """Return the epoch losses of a file of losses that also has step losses but does not say where its epochs end.

    Raises:
        TypeError, ValueError: lists of something else than numbers.
    """
    if not isinstance(metrics, dict) or not metrics.get("steps") or not metrics.get("epochs"):
        return {}
    pairs = zip(metrics["epochs"], metrics.get("epoch_losses") or [], strict=False)
    return {int(epoch): float(loss) for epoch, loss in pairs if loss is not None}


def read_history(value: Any, name: str) -> list[Record]:
    """Return the journal of a list of metrics, one object a step: step, loss, accuracy, tokens_per_sec, ...

    Further numbers keep their names. A ``timestamp`` may be ISO 8601 or seconds since 1970.

    Raises:
        TypeError: a row without a step, or with a quantity that is no number.
    """
    rows = [_renamed(row) for row in _history(value) or ()]
    records: list[Record] = [RunRecord(run_name=name, time=rows[0]["time"] if rows else "")]
    for row in rows:
        record = decode({**row, "type": StepRecord.type})
        if record is not None:
            records.append(record)
    return records


def _history(value: Any) -> list[dict[str, Any]] | None:
    """The rows of a list of metrics, which may lie in an object, or be an object of columns."""
    if isinstance(value, dict):
        inner = next((value[key] for key in _HISTORIES if key in value), None)
        if inner is not None:
            return _history(inner)
        columns = {key: column for key, column in value.items() if isinstance(column, list)}
        if not columns:
            return None
        value = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)]
    if not isinstance(value, list) or not value or not all(isinstance(row, Mapping) for row in value):
        return None
    first = value[0]
    has = [any(synonym in first for synonym in _SYNONYMS[key]) for key in ("iter", "loss")]
    return value if all(has) else None


def _renamed(row: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(row)
    for name, synonyms in _SYNONYMS.items():
        key = next((synonym for synonym in synonyms if synonym in found), None)
        if key is not None:
            found[name] = found.pop(key)
    found["time"] = _time(found.get("time"))
    return found


def _time(value: Any) -> str:
    """ISO 8601 from what programs write: that, or seconds since 1970."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, timezone.utc).isoformat(timespec="milliseconds")
        except (ValueError, OverflowError, OSError):  # no time that a calendar has
            return ""
    return value if isinstance(value, str) else ""
