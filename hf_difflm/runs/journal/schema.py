"""The records of the journal, version 1.

Every record is one JSON object on one line: ``type``, ``time`` (ISO 8601 with time zone) and the fields of its class.
``iter`` is the number of optimiser steps done, so the first step is 1 and an evaluation before training is at 0.
Losses are nats per scored token, times are milliseconds of training (evaluation and saving apart), ``mfu`` is per cent.
Unknown values are null, in steps they are left out; a value that was NaN or infinite is null and its place is listed in
``nonfinite``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from math import inf
from typing import Any, ClassVar

from .strict_json import dumps_line, plain

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
    experiment_name: str | None = None
    """Names the metrics file, where it is not the run's name."""
    parent_run: str | None = None
    """Id or path of the run whose weights this one began with."""
    objective: str | None = None
    bound: str | None = None
    """``"nelbo"`` (an upper bound on the negative log-likelihood) or ``"exact"``."""
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """Fingerprint, counts, and ``source_nll`` (nats per scored token) where the source's entropy is known."""
    model: dict[str, Any] = field(default_factory=dict)
    """``type`` and ``parameters``."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """World size, device, dtype, compile, engine, versions, command line, ``wandb_run_id``."""


COUNTS, EPOCHS = "counts", "epochs"
"""Key and value of a header's metadata where ``iter`` counts epochs, since the log of another program has no steps."""


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
    total_flops: float | None = None
    """Model FLOPs since the first step of the run, over all processes."""
    epoch: float | None = None
    """Passes over the training set that were done when the step ended."""


@dataclass(kw_only=True)
class EvaluationRecord(Record):
    """All metrics of one evaluation."""

    type: ClassVar[str] = "evaluation"
    iter: int
    metrics: dict[str, Any] = field(default_factory=dict)
    train_loss: float | None = None
    """Mean loss of the steps since the evaluation before; like the fields below, only where steps are not logged."""
    lr: float | None = None
    time_ms: float | None = None
    """Mean milliseconds of training of those steps."""
    tokens_seen: int | None = None

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
class MeasurementRecord(Record):
    """Numbers about the model or the machine that are not measured at every step."""

    type: ClassVar[str] = "measurement"
    iter: int
    source: str
    """What was measured: ``gradients``, ``statistics``, ``throughput`` or a name of your own."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Names in the manner of trackers, ``group/name``: ``grad_norm/attention``, ``param_norm/layer_03``, ..."""
    histograms: dict[str, Any] | None = None
    """Name to ``{"low", "high", "counts"}``: bins of equal width from ``low`` to ``high``."""


@dataclass(kw_only=True)
class EventRecord(Record):
    """Something that happened to the run: started, resumed, interrupted, failed, completed or a name of your own."""

    type: ClassVar[str] = "event"
    event: str
    iter: int | None = None
    message: str | None = None
    resumed_from_step: int | None = None


_CLASSES: dict[str, type[Record]] = {
    cls.type: cls
    for cls in (
        RunRecord,
        StepRecord,
        EvaluationRecord,
        CheckpointRecord,
        SampleRecord,
        MeasurementRecord,
        EventRecord,
    )
}
_FIELDS = {cls: tuple(item.name for item in fields(cls)) for cls in _CLASSES.values()}
_ENVELOPE = ("time", "nonfinite", "extra")
STEP_NUMBERS = tuple(name for name in _FIELDS[StepRecord] if name not in _ENVELOPE)
"""The quantities of a step, in the order of its fields."""
STEP_INTEGERS = frozenset({"iter", "steps", "tokens_seen"})
# Fields that are left out of the file where they say nothing. Steps are many: they hold what is known alone.
_OPTIONAL = {
    RunRecord: {"experiment_name", "parent_run"},
    StepRecord: {*STEP_NUMBERS} - {"iter"},
    EvaluationRecord: {"train_loss", "lr", "time_ms", "tokens_seen"},
    MeasurementRecord: {"histograms"},
    EventRecord: {"message", "resumed_from_step"},
}
_WRITTEN = {cls: tuple(name for name in names if name not in _ENVELOPE) for cls, names in _FIELDS.items()}
_NONE: frozenset[str] = frozenset()
_INFINITY = inf


def encode(record: Record) -> str:
    """Return the record as one line of strict JSON, without its line break."""
    nonfinite: list[str] = []
    cls = type(record)
    optional = _OPTIONAL.get(cls, _NONE)
    line: dict[str, Any] = {"type": record.type, "time": record.time or now()}
    values = vars(record)
    for name in _WRITTEN[cls]:
        value = values[name]
        # Nearly all there is to write are finite numbers: spare them the questions of plain().
        if type(value) is int or (type(value) is float and -_INFINITY < value < _INFINITY):
            line[name] = value
        elif value is not None:
            line[name] = value if _is_plain(value) else plain(value, name, nonfinite)
        elif name not in optional:
            line[name] = None
    if cls is StepRecord and line["steps"] == 1:
        del line["steps"]
    for name, value in record.extra.items():
        if name not in line and name != "nonfinite":
            finite = type(value) is float and -_INFINITY < value < _INFINITY
            line[name] = value if finite else plain(value, name, nonfinite)
    nonfinite += [name for name in record.nonfinite if name not in nonfinite]
    if nonfinite:
        line["nonfinite"] = nonfinite
        for name in nonfinite:
            if "." not in name:
                line.setdefault(name, None)
    return dumps_line(line)


def _is_plain(value: Any) -> bool:
    """Whether this is text, or one name each for finite numbers, as most of what is not a number itself."""
    if type(value) is dict:
        return all(
            type(name) is str and (type(item) is int or (type(item) is float and -_INFINITY < item < _INFINITY))
            for name, item in value.items()
        )
    return type(value) is str


def is_type(name: Any) -> bool:
    """Whether this is what a record of a kind that is known says of its kind."""
    return isinstance(name, str) and name in _CLASSES


def decode(line: Mapping[str, Any]) -> Record | None:
    """Return the record of a parsed line; None for a type that this version does not know.

    Raises:
        TypeError: a field without a default is missing, ``iter`` is no integer, a quantity of a step is no number.
    """
    cls = _CLASSES.get(str(line.get("type")))
    if cls is None:
        return None
    if cls is StepRecord:
        return _decode_step(line)
    known = {name: line[name] for name in _FIELDS[cls] if name in line and name != "extra"}
    if type(known.get("iter", 0)) is not int and not (cls is EventRecord and known["iter"] is None):
        raise TypeError(f"iter must be an integer, not {known['iter']!r}")
    known["time"] = _time(known.get("time"))
    known["extra"] = {name: value for name, value in line.items() if name not in known and name != "type"}
    return cls(**known)


def _decode_step(line: Mapping[str, Any]) -> StepRecord:
    """A step, checked in one pass: there are many."""
    known: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in line.items():
        if name in _STEP_NUMBERS:
            # bool is an int to Python, but no number in JSON.
            if value is not None and type(value) is not float and type(value) is not int:
                raise TypeError(f"{name} must be a number, not {value!r}")
            known[name] = value
        elif name not in _ENVELOPE_AND_TYPE:
            extra[name] = value
    if type(known.get("iter")) is not int:
        raise TypeError(f"iter must be an integer, not {known.get('iter')!r}")
    if known.get("steps", 1) is None:
        known["steps"] = 1
    flags = line.get("nonfinite", [])
    if not isinstance(flags, list) or not all(isinstance(name, str) for name in flags):
        raise TypeError(f"nonfinite must be a list of names, not {flags!r}")
    return StepRecord(time=_time(line.get("time")), nonfinite=flags, extra=extra, **known)


_STEP_NUMBERS = frozenset(STEP_NUMBERS)
_ENVELOPE_AND_TYPE = frozenset({"type", "time", "nonfinite"})


def _time(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"time must be text, not {value!r}")
    return value or ""
