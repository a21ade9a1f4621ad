"""Step records from what a Trainer reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

from ..runs.schema import STEP_NUMBERS, EvaluationRecord, StepRecord, now

_NAMES = {"learning_rate": "lr", "num_input_tokens_seen": "tokens_seen"}
# What is measured with a clock is not known to more decimals than these.
_DECIMALS = {"time_ms": 3, "tokens_per_sec": 1, "mfu": 3}
# Told in other words: the totals so far.
_IN_TOTALS = ("tokens", "flops")


def step_record(values: Mapping[str, Any], **known: Any) -> StepRecord:
    """Return what a Trainer reports under the log's names; further numbers are kept as they are called.

    Args:
        values: quantities of a step, other things are left out.
        known: fields of the record that are known better.
    """
    named: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in values.items():
        name = _NAMES.get(name, name)
        if name in STEP_NUMBERS:
            named[name] = value
        elif isinstance(value, Number) and name not in _IN_TOTALS:
            extra[name] = value
    record = StepRecord(**{**named, **known}, extra=extra)
    round_times(record)
    return record


def round_times(record: StepRecord) -> None:
    """Round what was measured with a clock: more decimals would only make the log longer."""
    for name, decimals in _DECIMALS.items():
        value = getattr(record, name)
        if value is not None:
            setattr(record, name, round(float(value), decimals))


def step_records(rows: Sequence[Mapping[str, Any]], tokens_seen: float, total_flops: float) -> list[StepRecord]:
    """Return the records of several steps, with the totals after each.

    Args:
        rows: one mapping a step; ``tokens`` and ``flops`` are those of the step.
        tokens_seen, total_flops: after the last of them.
    """
    records = []
    time = now()
    for row in reversed(rows):
        record = step_record(row, time=time)
        if record.tokens_seen is None and row.get("tokens") is not None:
            record.tokens_seen = int(tokens_seen)
            tokens_seen -= row["tokens"]
        if record.total_flops is None and row.get("flops") is not None:
            record.total_flops = total_flops
            total_flops -= row["flops"]
        records.append(record)
    return records[::-1]


@dataclass
class SinceEvaluation:
    """The training since the last evaluation, for a log that keeps no steps."""

    steps: int = 0
    loss: float = 0.0
    milliseconds: float = 0.0
    lr: float | None = None
    tokens_seen: int | None = None

    def add(self, record: StepRecord) -> None:
        """Add a step."""
        self.steps += record.steps
        self.loss += record.steps * (record.loss or 0.0)
        self.milliseconds += record.steps * (record.time_ms or 0.0)
        self.lr = record.lr
        self.tokens_seen = record.tokens_seen

    def describe(self, record: EvaluationRecord) -> None:
        """Write the means into an evaluation and begin anew; nothing where no step was taken."""
        if self.steps:
            record.train_loss, record.lr = self.loss / self.steps, self.lr
            record.time_ms, record.tokens_seen = round(self.milliseconds / self.steps, 3), self.tokens_seen
            self.__init__()  # type: ignore[misc]
