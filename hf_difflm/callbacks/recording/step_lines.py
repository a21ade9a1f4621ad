"""Steps as lines of the journal, in one formatting each: they are what a training writes most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from ...runs.journal.schema import STEP_NUMBERS, encode, now
from ...runs.journal.strict_json import dumps
from .step_records import DECIMALS, FLOAT32, FORMATS, LARGEST_ROUNDED, step_records

# What a row brings in the words of the log is left to the records, which know how to weigh it.
_RARE = frozenset({"type", "time", "nonfinite", "extra", "steps", "tokens_seen", "total_flops"})
_RARE_WORDS = frozenset({"learning_rate", "num_input_tokens_seen"})
_OWN_TOKENS = frozenset({"tokens_seen", "num_input_tokens_seen"})
_NUMBERS = frozenset({int, float})
_MISSING: Any = object()


@dataclass(frozen=True)
class _Form:
    """How rows of the same quantities are written.

    Attributes:
        text: the line, with a place for the time, the totals there are, and each of the values.
        values: takes the values from a row, in the order of the text.
        rounded: takes those from a row that are rounded.
    """

    text: str
    values: Any
    rounded: Any
    totals: tuple[bool, bool]


class StepLines:
    """Encodes rows as :func:`encode` does the records that :func:`step_records` makes of them, several times as fast."""

    def __init__(self) -> None:
        self._forms: dict[tuple[str, ...], _Form | None] = {}

    def of(self, rows: Sequence[Mapping[str, Any]], tokens_seen: float, total_flops: float) -> list[str]:
        """Return a line for each row; the totals are those after the last of them."""
        time = now()
        lines = []
        for row in reversed(rows):
            line = self._line(row, time, tokens_seen, total_flops)
            if line is None:
                (record,) = step_records([row], tokens_seen, total_flops)
                line = encode(record)
            lines.append(line)
            if _OWN_TOKENS.isdisjoint(row):
                tokens_seen -= row.get("tokens") or 0
            if "total_flops" not in row:
                total_flops -= row.get("flops") or 0.0
        return lines[::-1]

    def _line(self, row: Mapping[str, Any], time: str, tokens_seen: float, total_flops: float) -> str | None:
        """The line of a row of finite numbers that are as large as usual; None of another."""
        known = {name: value for name, value in row.items() if value is not None}
        names = tuple(known)
        form = self._forms.get(names, _MISSING)
        if form is _MISSING:
            form = self._forms[names] = _form(names)
        if form is None or not _NUMBERS.issuperset(map(type, known.values())) or type(known["iter"]) is not int:
            return None
        # Of what is not finite the sum is not either.
        if not sum(map(abs, form.rounded(known))) < LARGEST_ROUNDED:
            return None
        totals: list[float] = []
        if form.totals[0]:
            totals.append(int(tokens_seen))
        if form.totals[1]:
            if not abs(total_flops) < float("inf"):
                return None
            totals.append(float(total_flops))
        return form.text % (time, *form.values(known), *totals)


def _form(names: tuple[str, ...]) -> _Form | None:
    given = [name for name in names if name not in ("tokens", "flops")]
    if "iter" not in given or not (_RARE | _RARE_WORDS).isdisjoint(given):
        return None
    rounded = [name for name in given if name != "iter"]
    if len(rounded) < 2:  # itemgetter returns no tuple
        return None
    order = [name for name in STEP_NUMBERS if name in given] + [name for name in given if name not in STEP_NUMBERS]
    places = [f"{_key(name)}:{_place(name)}" for name in order]
    totals = ("tokens" in names, "flops" in names)
    places += [
        f'"{name}":{place}'
        for name, place, there in zip(("tokens_seen", "total_flops"), ("%d", "%r"), totals, strict=True)
        if there
    ]
    text = '{"type":"step","time":"%s",' + ",".join(places) + "}"
    return _Form(text, itemgetter(*order), itemgetter(*rounded), totals)


def _key(name: str) -> str:
    return dumps(name).replace("%", "%%")


def _place(name: str) -> str:
    if name == "iter":
        return "%d"
    return f"%.{DECIMALS[name]}f" if name in DECIMALS else FORMATS.get(name, FLOAT32)
