"""The records of the journal, version 1.

Every record is one JSON object on one line: ``type``, ``time`` (ISO 8601 with time zone) and the fields of its class.
``iter`` is the number of optimiser steps done, so the first step is 1 and an evaluation before training is at 0.
Losses are nats per scored token, times are milliseconds of training (evaluation and saving apart), ``mfu`` is per cent.
Unknown values are null; a value that was NaN or infinite is null too and its place is listed in ``nonfinite``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar

from .strict_json import dumps, plain

SCHEMA_VERSION = 1
RUNNING, COMPLETED, INTERRUPTED, FAILED = "running", "completed", "interrupted", "failed"
# The status of a run is what its last event of these says.
STATUS_OF_EVENT = {
    "started": RUNNING,
    "resumed": RUNNING,
    "completed": COMPLETED,
    "interrupted": INTERRUPTED,
    "failed": FAILED,
}


def now() -> str:
    """Return the local time as ISO 8601 with milliseconds and time zone."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


@dataclass(kw_only=True)
class Record:
    """What every record has; unknown keys of a file written by a later version land in ``extra``."""

    type: ClassVar[str]
    time: str = ""
    nonfinite: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class RunRecord(Record):
    """The header of an attempt: what was trained, on what, with which settings and versions."""

    type: ClassVar[str] = "run"
    schema_version: int = SCHEMA_VERSION
    run_name: str = "run"
    run_id: str = ""
    objective: str | None = None
    bound: str | None = None
    """``"nelbo"`` (an upper bound on the negative log-likelihood) or ``"exact"``."""
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """Fingerprint, counts, and ``source_nll`` (nats per scored token) where the source's entropy is known."""
    model: dict[str, Any] = field(default_factory=dict)
    """``type`` and ``parameters``."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """World size, device, dtype, compile, engine, versions, command line."""


@dataclass(kw_only=True)
class StepRecord(Record):
    """One row of ``training_iterations``: the mean over ``steps`` optimiser steps, the last of which is ``iter``."""

    type: ClassVar[str] = "step"
    iter: int
    steps: int = 1
    loss: float | None = None
    time_ms: float | None = None
    mfu: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    tokens_per_sec: float | None = None
    accuracy: float | None = None
    noise_level: float | None = None
    masking_rate: float | None = None
    tokens_seen: int | None = None
    """Scored tokens since the first step of the run."""


@dataclass(kw_only=True)
class EvaluationRecord(Record):
    """All metrics of one evaluation."""

    type: ClassVar[str] = "evaluation"
    iter: int
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def nll(self) -> float | None:
        """Nats per token: ``eval_nll``, or the ``eval_loss`` of a stock Trainer."""
        value = self.number("eval_nll")
        return self.number("eval_loss") if value is None else value

    @property
    def nll_stderr(self) -> float | None:
        """Monte-Carlo standard error of :attr:`nll`, where it is known."""
        return self.number("eval_nll_stderr")

    def number(self, name: str) -> float | None:
        """Return a metric where it is a number, else None."""
        value = self.metrics.get(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@dataclass(kw_only=True)
class CheckpointRecord(Record):
    """A saved checkpoint: its path relative to the folder of the log, and the nll of the evaluation before it."""

    type: ClassVar[str] = "checkpoint"
    iter: int
    path: str
    val_loss: float | None = None


@dataclass(kw_only=True)
class SampleRecord(Record):
    """A text the model wrote."""

    type: ClassVar[str] = "sample"
    iter: int
    text: str
    prompt: str = ""


@dataclass(kw_only=True)
class EventRecord(Record):
    """Something that happened to the run: started, resumed, interrupted, failed, completed or a name of your own."""

    type: ClassVar[str] = "event"
    event: str
    iter: int | None = None
    message: str | None = None
    resumed_from_step: int | None = None


_CLASSES: dict[str, type[Record]] = {
    cls.type: cls for cls in (RunRecord, StepRecord, EvaluationRecord, CheckpointRecord, SampleRecord, EventRecord)
}
_FIELDS = {cls: tuple(item.name for item in fields(cls)) for cls in _CLASSES.values()}
_ENVELOPE = ("time", "nonfinite", "extra")
# Fields that are left out of the file where they say nothing.
_OPTIONAL = {"tokens_seen", "message", "resumed_from_step"}


def encode(record: Record) -> str:
    """Return the record as one line of strict JSON, without its line break."""
    nonfinite: list[str] = []
    line: dict[str, Any] = {"type": record.type, "time": record.time or now()}
    for name in _FIELDS[type(record)]:
        value = getattr(record, name)
        if name not in _ENVELOPE and not (value is None and name in _OPTIONAL):
            line[name] = plain(value, name, nonfinite)
    for name, value in record.extra.items():
        if name not in line and name != "nonfinite":
            line[name] = plain(value, name, nonfinite)
    if nonfinite:
        line["nonfinite"] = nonfinite
    return dumps(line)


def decode(line: Mapping[str, Any]) -> Record | None:
    """Return the record of a parsed line; None for a type that this version does not know.

    Raises:
        TypeError: a field without a default is missing, or ``iter`` is no integer.
    """
    cls = _CLASSES.get(str(line.get("type")))
    if cls is None:
        return None
    known = {name: line[name] for name in _FIELDS[cls] if name in line and name != "extra"}
    if not isinstance(known.get("iter", 0), int) and not (cls is EventRecord and known["iter"] is None):
        raise TypeError(f"iter must be an integer, not {known['iter']!r}")
    known["extra"] = {name: value for name, value in line.items() if name not in known and name != "type"}
    return cls(**known)
