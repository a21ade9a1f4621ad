"""The step rows of a run as columns: a million of them are a few arrays, and a row is made where one is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from .schema import STEP_INTEGERS, STEP_NUMBERS, StepRecord

_BATCH = 4096


class Steps(Sequence[StepRecord]):
    """A read-only sequence of :class:`StepRecord` that is kept as columns.

    Args:
        columns: quantity to float64 array of shape (rows,), NaN where it is unknown; ``iter`` and ``steps`` are always
            there and known. Whole numbers are exact up to 2^53.
        integers: further quantities, beside those of the schema, whose values are all whole numbers.
        times: when each row was written, ISO 8601 in UTF-8, shape (rows,).
        flags: ``nonfinite`` of the rows that have one, by row.
        others: what a row says beside numbers, by row.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        integers: Iterable[str] = (),
        times: np.ndarray | None = None,
        flags: Mapping[int, list[str]] | None = None,
        others: Mapping[int, dict[str, Any]] | None = None,
    ) -> None:
        # One order, however the columns came together.
        self._extras = sorted(name for name in columns if name not in STEP_NUMBERS)
        self._columns = {name: columns[name] for name in (*STEP_NUMBERS, *self._extras) if name in columns}
        self._rows = len(self._columns["iter"])
        self._integers = STEP_INTEGERS | set(integers)
        self._times = np.zeros(self._rows, dtype="S1") if times is None else times
        self._flags = dict(flags or {})
        self._others = dict(others or {})

    @classmethod
    def from_records(cls, records: Sequence[StepRecord]) -> Steps:
        """Return the columns of some records."""
        columns = {name: _numbers([getattr(record, name) for record in records]) for name in ("iter", "steps")}
        for name in STEP_NUMBERS:
            values = [getattr(record, name) for record in records]
            if name not in columns and any(value is not None for value in values):
                columns[name] = _numbers(values)
        others: dict[int, dict[str, Any]] = {}
        extras: dict[str, list[float | None]] = {}
        fractional: set[str] = set()
        for row, record in enumerate(records):
            for name, value in record.extra.items():
                if type(value) is int or type(value) is float:
                    if name not in extras:
                        extras[name] = [None] * len(records)
                    extras[name][row] = value
                    if type(value) is float:
                        fractional.add(name)
                elif value is not None:
                    others.setdefault(row, {})[name] = value
        columns.update({name: _numbers(values) for name, values in extras.items()})
        times = np.array([record.time.encode() for record in records], dtype=bytes)
        flags = {row: list(record.nonfinite) for row, record in enumerate(records) if record.nonfinite}
        return cls(columns, extras.keys() - fractional, times, flags, others)

    @classmethod
    def concatenate(cls, parts: Sequence[Steps]) -> Steps:
        """Return several pieces as one."""
        if len(parts) == 1:
            return parts[0]
        names = list(dict.fromkeys(name for part in parts for name in part._columns)) or ["iter", "steps"]
        columns = {name: np.concatenate([np.empty(0), *(part.column(name) for part in parts)]) for name in names}
        fractional = {name for part in parts for name in part._columns if name not in part._integers}
        times = np.concatenate([np.empty(0, dtype="S1"), *(part._times for part in parts)])
        flags: dict[int, list[str]] = {}
        others: dict[int, dict[str, Any]] = {}
        start = 0
        for part in parts:
            flags.update({start + row: value for row, value in part._flags.items()})
            others.update({start + row: value for row, value in part._others.items()})
            start += len(part)
        return cls(columns, set(names) - fractional - set(STEP_NUMBERS), times, flags, others)

    @property
    def quantities(self) -> list[str]:
        """Names of the quantities that some row knows."""
        return list(self._columns)

    def column(self, name: str) -> np.ndarray:
        """Return one quantity as float64 of shape (rows,), NaN where it is unknown; do not write to it."""
        found = self._columns.get(name)
        return np.full(self._rows, math.nan) if found is None else found

    def is_whole(self, name: str) -> bool:
        """Say whether every row knows this quantity and it is a whole number in each."""
        return name in self._integers and not np.isnan(self.column(name)).any()

    def up_to(self, step: int) -> Steps:
        """Return the rows whose ``iter`` is at most ``step``."""
        kept = self._columns["iter"] <= step
        return self if kept.all() else self._select(np.flatnonzero(kept))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield what each row knows as plain data, its ``nonfinite`` where it has one; faster than the records."""
        for start in range(0, self._rows, _BATCH):
            stop = min(start + _BATCH, self._rows)
            columns = [(name, self._values(name, start, stop)) for name in self._columns]
            for place in range(stop - start):
                row = {name: column[place] for name, column in columns if column[place] is not None}
                if start + place in self._others:
                    row.update(self._others[start + place])
                if start + place in self._flags:
                    row["nonfinite"] = self._flags[start + place]
                yield row

    def __len__(self) -> int:
        return self._rows

    @overload
    def __getitem__(self, place: int) -> StepRecord: ...

    @overload
    def __getitem__(self, place: slice) -> Steps: ...

    def __getitem__(self, place: int | slice) -> StepRecord | Steps:
        if isinstance(place, slice):
            return self._select(np.arange(self._rows)[place])
        row = range(self._rows)[place]  # negative places, and the IndexError
        return next(self._records(row, row + 1))

    def __iter__(self) -> Iterator[StepRecord]:
        for start in range(0, self._rows, _BATCH):
            yield from self._records(start, min(start + _BATCH, self._rows))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Steps):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{self._rows} steps of {', '.join(self._columns)}>"

    def _select(self, rows: np.ndarray) -> Steps:
        place = {int(row): new for new, row in enumerate(rows)} if self._flags or self._others else {}
        return Steps(
            {name: column[rows] for name, column in self._columns.items()},
            self._integers,
            self._times[rows],
            {place[row]: value for row, value in self._flags.items() if row in place},
            {place[row]: value for row, value in self._others.items() if row in place},
        )

    def _records(self, start: int, stop: int) -> Iterator[StepRecord]:
        columns = {name: self._values(name, start, stop) for name in self._columns}
        extras = [(name, columns.pop(name)) for name in self._extras]
        times = [time.decode() for time in self._times[start:stop].tolist()]
        rows = zip(*columns.values(), strict=True)
        for place, (time, values) in enumerate(zip(times, rows, strict=True)):
            extra: dict[str, Any] = {name: column[place] for name, column in extras if column[place] is not None}
            flags = self._flags.get(start + place, [])
            extra.update({name: None for name in flags if name not in STEP_NUMBERS and "." not in name})
            extra.update(self._others.get(start + place, {}))
            named = dict(zip(columns, values, strict=True))
            yield StepRecord(time=time, nonfinite=list(flags), extra=extra, **named)

    def _values(self, name: str, start: int, stop: int) -> list[Any]:
        """One quantity of some rows as Python numbers, None where it is unknown."""
        values = self._columns[name][start:stop]
        unknown = np.isnan(values)
        found: list[Any] = values.tolist()
        if name in self._integers:
            found = [value if value != value else int(value) for value in found]
        if unknown.any():
            for place in np.flatnonzero(unknown).tolist():
                found[place] = None
        return found


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """float64 of shape (rows,); None, and what float64 cannot hold, become NaN."""
    try:
        return finite(np.array(values, dtype=np.float64))  # None becomes NaN
    except OverflowError:
        return finite(np.array([_float(value) for value in values], dtype=np.float64))


def _float(value: float | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.nan


def finite(values: np.ndarray) -> np.ndarray:
    """Return float64 values with NaN for infinities, which JSON cannot hold but ``1e999`` is read as."""
    infinite = np.isinf(values)
    return np.where(infinite, math.nan, values) if infinite.any() else values
