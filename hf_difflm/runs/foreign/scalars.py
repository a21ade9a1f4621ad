"""Scalars by step, in the order in which a program logged them, as the records of a journal."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..journal.schema import (
    COUNTS,
    EPOCHS,
    STEP_NUMBERS,
    EvaluationRecord,
    EventRecord,
    MeasurementRecord,
    Record,
    RunRecord,
    StepRecord,
    decode,
)
from .names import STEP_NAMES, is_evaluation, iso_time, renamed

logger = logging.getLogger(__name__)

# The last row of a Trainer is about the whole training: its ``train_loss`` is the mean over all steps.
_LAST_ROW = ("train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")
_POSITIONS = frozenset({"epoch", "tokens_seen"})
Row = dict[str, Any]


class NoScalars(TypeError):
    """A log has no step or no scalar; the message says which."""


class EndsWithinRecord(ValueError):
    """A binary log ends within a record, as that of a killed run does."""


@contextmanager
def needs(package: str, what: str) -> Iterator[None]:
    """Around the import of what reads a format; raises UserError where it is not installed."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"{what} are read by the package {package}; install it: pip install {package}") from error


class ScalarTable:
    """What is known at each step.

    What a program logs at one step in several goes is one row, the last of equal names counts. Where a name comes again at
    an earlier step, the training was taken up there: what it had logged from that step on is left out.
    """

    def __init__(self) -> None:
        self._rows: dict[int, Row] = {}
        self._evaluations: dict[int, Row] = {}
        self._times: dict[int, str] = {}
        self._last: dict[str, int] = {}
        self._end = -1
        self.left_out = 0

    def add(self, step: int, values: Mapping[str, Any], time: str = "") -> None:
        """Add what was logged at a step under our names; a row of an evaluation goes there with all it says."""
        if step < self._end and any(self._last.get(name, -1) > step for name in values):
            self._return_to(step)
        self._end = max(self._end, step)
        self._last.update(dict.fromkeys(values, step))
        evaluated = {name: value for name, value in values.items() if is_evaluation(name)}
        if evaluated and "loss" not in values:
            evaluated = dict(values)
        if evaluated:
            self._evaluations.setdefault(step, {}).update(evaluated)
        rest = {name: value for name, value in values.items() if name not in evaluated}
        if rest:
            self._rows.setdefault(step, {}).update(rest)
        if time:
            self._times[step] = time

    def _return_to(self, step: int) -> None:
        for rows in (self._rows, self._evaluations):
            for beyond in [known for known in rows if known >= step]:
                self.left_out += 1
                del rows[beyond]
        self._last = {name: min(last, step - 1) for name, last in self._last.items()}
        self._end = step

    def records(self, header: RunRecord) -> list[Record]:
        """Return the header and all records, those of steps with the number of steps since the one before.

        Raises:
            NoScalars: nothing was added.
            TypeError: a quantity of ours is no number.
        """
        if not self._rows and not self._evaluations:
            raise NoScalars("no scalar was logged")
        times = [self._times[step] for step in sorted(self._times)]
        header.time = header.time or (times[0] if times else "")
        records: list[Record] = [header]
        ended = False
        rows: dict[int, Row] = {}
        for step in sorted(self._rows):
            row = self._rows[step]
            if "train_loss" in row and "train_runtime" in row:
                ended = True
                last = {name: row.pop(name) for name in _LAST_ROW if name in row}
                time = self._times.get(step, "")
                records.append(MeasurementRecord(iter=step, source="training", metrics=last, time=time))
            if not row.keys() <= _POSITIONS:
                rows[step] = row
        logged = [step for step, row in rows.items() if "loss" in row]
        spans = dict(zip(logged, _spans(logged), strict=True))
        records += [self._step(step, row, spans.get(step, 1)) for step, row in rows.items()]
        records += [self._evaluation(step, self._evaluations[step]) for step in sorted(self._evaluations)]
        if ended:
            records.append(EventRecord(event="completed", iter=self._end, time=times[-1] if times else ""))
        return records

    def _step(self, step: int, row: Row, steps: int) -> StepRecord:
        nonfinite = [name for name, value in row.items() if _is_nonfinite(value)]
        row = {name: None if name in nonfinite else value for name, value in row.items()}
        # Our own export says itself how many steps a row stands for.
        line = {"steps": steps, **row, "type": StepRecord.type, "iter": step, "time": self._times.get(step, "")}
        record = decode(line)
        assert isinstance(record, StepRecord)
        record.nonfinite = nonfinite
        return record

    def _evaluation(self, step: int, metrics: Row) -> EvaluationRecord:
        nonfinite = [f"metrics.{name}" for name, value in metrics.items() if _is_nonfinite(value)]
        known = {name: None if _is_nonfinite(value) else value for name, value in metrics.items()}
        return EvaluationRecord(iter=step, metrics=known, nonfinite=nonfinite, time=self._times.get(step, ""))


def read_rows(rows: Iterable[Mapping[str, Any]], header: RunRecord, path: Path) -> list[Record]:
    """Return the records of a log of one object a step.

    Args:
        rows: name to value; what is neither a number nor part of an evaluation is left out.
        header: what the log says of its run.
        path: the log, as messages call it.

    Raises:
        NoScalars: there is no column of steps, and no epochs that count the rows, or nothing else.
        TypeError: a row has no step, or a quantity of ours is no number.
    """
    rows = _by_own_count(list(rows))
    names = dict.fromkeys(name for row in rows for name, value in row.items() if value is not None)
    ours = renamed(names)
    steps = next((name for name, known in ours.items() if known == "iter"), None)
    if not names:
        raise NoScalars("no scalar was logged")
    if steps is None:
        steps = _epochs(rows, list(names), ours)
        header.metadata[COUNTS] = EPOCHS
        logger.warning("%s counts epochs and no steps: where a step is named, it is an epoch", path)
    _refuse_steps_of_an_epoch(rows, steps, ours)
    table = ScalarTable()
    for row in rows:
        values: Row = {}
        time = ""
        last = "train_loss" in row and "train_runtime" in row and "loss" not in row
        for name, value in row.items():
            known = name if last and name in _LAST_ROW else ours.get(name)
            if known == "time":
                time = iso_time(value)
            elif known is not None and known != "iter" and value is not None and _is_kept(known, value):
                values[known] = value
        table.add(_whole(row.get(steps)), values, time)
    _tell_left_out(table, path)
    return table.records(header)


def read_points(points: Sequence[tuple[int, str, float, str]], header: RunRecord, path: Path) -> list[Record]:
    """Return the records of single scalars ``(step, name, value, time)``, in the order in which they were logged.

    Raises:
        NoScalars: there is none.
    """
    ours = renamed(dict.fromkeys(name for _, name, _, _ in points))
    table = ScalarTable()
    for step, name, value, time in points:
        known = ours.get(name)
        if known is not None and known not in ("iter", "time"):
            table.add(step, {known: value}, time)
    _tell_left_out(table, path)
    return table.records(header)


def _by_own_count(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of W&B by the steps that the program counts, where it logs them; ``_step`` counts the calls of its logger.

    A row without the count was logged at the one before.
    """
    if not any("_step" in row for row in rows):
        return rows
    for name in STEP_NAMES:
        counts = [row[name] for row in rows if isinstance(row.get(name), (int, float))]
        if counts and all(count == int(count) for count in counts) and counts == sorted(counts):
            break
    else:
        return rows
    found: list[Mapping[str, Any]] = []
    count: Any = 0
    for row in rows:
        count = row.get(name, count) if row.get(name) is not None else count
        found.append({**{key: value for key, value in row.items() if key != name}, STEP_NAMES[0]: count})
    return found


def _is_kept(name: str, value: Any) -> bool:
    """Numbers, and what else an evaluation says; text in the place of a quantity of ours is kept too, to be refused."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number or is_evaluation(name) or name in STEP_NUMBERS


def _is_nonfinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value != int(value):
        raise TypeError(f"a step must be an integer, not {value!r}")
    return int(value)


def _spans(steps: Sequence[int]) -> list[int]:
    """How many optimiser steps each of these rows stands for: those since the row before.

    Of the first row that is not known where the log begins late; it counts for as many as the next one.
    """
    gaps = [after - before for before, after in pairwise(steps)]
    return [max(min(steps[0], gaps[0] if gaps else steps[0]), 1), *gaps] if steps else []


def _epochs(rows: Sequence[Mapping[str, Any]], names: Sequence[str], ours: Mapping[str, str]) -> str:
    """Return the name of the epochs of a log that counts no steps.

    Raises:
        NoScalars: there are none, or they are no count of the rows: not whole, or with several rows of one kind in each.
    """
    epochs = next((name for name, known in ours.items() if known == "epoch"), None)
    wanted = f"none of {', '.join(STEP_NAMES[:4])}, which would count its steps"
    if epochs is None:
        raise NoScalars(f"found {', '.join(names[:6])}, and {wanted}")
    before: Any = None
    seen: set[str] = set()
    for row in rows:
        here = row.get(epochs)
        if isinstance(here, float) and here != int(here):
            raise NoScalars(f"found {epochs!r} {here:g}, no whole number, and {wanted}")
        seen = set() if here != before else seen
        if twice := seen & (row.keys() - {epochs}):
            raise NoScalars(f"found several values of {min(twice)!r} in epoch {here}, and {wanted}")
        before, seen = here, seen | row.keys()
    return epochs


def _refuse_steps_of_an_epoch(rows: Sequence[Mapping[str, Any]], steps: str, ours: Mapping[str, str]) -> None:
    """Refuse a count that begins anew in each epoch: all but the last epoch would be left out as an earlier attempt.

    Raises:
        NoScalars: it does.
    """
    epochs = next((name for name, known in ours.items() if known == "epoch"), None)
    step, epoch = -math.inf, math.inf
    for row in rows:
        here, during = row.get(steps), row.get(epochs) if epochs is not None else None
        if not isinstance(here, (int, float)) or not isinstance(during, (int, float)):
            continue
        if here < step and during > epoch:
            raise NoScalars(f"{steps!r} begins anew in epoch {during:g}; give it a column global_step that counts on")
        step, epoch = here, during


def _tell_left_out(table: ScalarTable, path: Path) -> None:
    if table.left_out:
        logger.warning(
            "%s goes back to an earlier step, as a resumed training does: %d rows that it had logged before are left out",
            path,
            table.left_out,
        )
