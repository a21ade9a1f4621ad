"""Step records from what a Trainer reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

from ...runs.journal.schema import STEP_NUMBERS, EvaluationRecord, StepRecord, now

_NAMES = {"learning_rate": "lr", "num_input_tokens_seen": "tokens_seen"}
# What is measured with a clock is not known to more decimals than these; passes are told apart down to a batch.
DECIMALS = {"time_ms": 3, "tokens_per_sec": 1, "mfu": 3, "epoch": 9}
# Counts are exact; a learning rate is computed in double precision.
_EXACT = frozenset({"iter", "steps", "tokens_seen", "total_flops"})
FORMATS = {"lr": "%.9g"}
# All else comes from float32, which knows no more digits.
FLOAT32 = "%.7g"
LARGEST_ROUNDED = 1e7
# Told in other words: the totals so far.
_IN_TOTALS = frozenset({"tokens", "flops"})
_STEP_NUMBERS = frozenset(STEP_NUMBERS)


def step_record(values: Mapping[str, Any], **known: Any) -> StepRecord:
    """Return what a Trainer reports under the log's names; further numbers are kept as they are called.

    Fractions are rounded to what is known of them: seven significant digits, those of float32, and nine for the learning
    rate. Counts, totals and whatever has more than seven digits before the point stay as they are.

    Args:
        values: quantities of a step, other things are left out.
        known: fields of the record that are known better.
    """
    named: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in values.items():
        name = _NAMES.get(name, name)
        if type(value) is float and -LARGEST_ROUNDED < value < LARGEST_ROUNDED and name not in _EXACT:
            decimals = DECIMALS.get(name)
            value = float(FORMATS.get(name, FLOAT32) % value) if decimals is None else round(value, decimals)
        if name in _STEP_NUMBERS:
            named[name] = value
        # To ask an abstract class takes long.
        elif name not in _IN_TOTALS and (type(value) is float or isinstance(value, Number)):
            extra[name] = value
    named.update(known)
    return StepRecord(**named, extra=extra)


def round_times(record: StepRecord) -> None:
    """Round what was measured with a clock: more decimals would only make the log longer."""
    for name in ("time_ms", "tokens_per_sec", "mfu"):
        value = getattr(record, name)
        if value is not None:
            setattr(record, name, round(float(value), DECIMALS[name]))


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
