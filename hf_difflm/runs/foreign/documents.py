"""JSON documents of a whole run, and flat files of losses, as the records of a journal."""

from __future__ import annotations

from typing import Any

from ..journal.schema import (
    COUNTS,
    EPOCHS,
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
from .names import iso_time

_LISTS = {
    "events": EventRecord.type,
    "checkpoints": CheckpointRecord.type,
    "samples": SampleRecord.type,
    "measurements": MeasurementRecord.type,
}
_EVAL_STEP_KEYS = {"iter", "train_loss", "val_loss", "val_loss_stderr", "lr", "timestamp", "time_ms", "tokens_seen"}
_UNKNOWN_MFU = -100.0


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
        decode({**header, "type": RunRecord.type, "time": iso_time(document.get("start_time"))})
    ]
    # Events first: what a resume superseded is gone from a document already.
    for key, kind in _LISTS.items():
        rows = document.get(key) or ()
        records += [decode({**row, "type": kind, "time": iso_time(row.get("timestamp"))}) for row in rows]
    for row in document.get("eval_steps") or ():
        metrics = {key: value for key, value in row.items() if key not in _EVAL_STEP_KEYS}
        if "eval_nll" not in metrics:
            metrics.setdefault("eval_loss", row.get("val_loss"))
        known = {key: row[key] for key in ("train_loss", "lr", "time_ms", "tokens_seen") if key in row}
        line = {"iter": row.get("iter"), "metrics": metrics, "time": iso_time(row.get("timestamp")), **known}
        records.append(decode({**line, "type": EvaluationRecord.type}))
    for row in document["training_iterations"]:
        row = dict(row, mfu=None) if row.get("mfu") == _UNKNOWN_MFU else row
        records.append(decode({**row, "type": StepRecord.type}))
    if not document.get("events") and document.get("end_time"):
        records.append(EventRecord(event="completed", time=iso_time(document["end_time"])))
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
            time=iso_time(metrics.get("start_time")),
            metadata={} if (by_step := bool(metrics.get("steps"))) else {COUNTS: EPOCHS},
        )
    ]
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
        records.append(EventRecord(event="completed", time=iso_time(metrics["end_time"])))
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
