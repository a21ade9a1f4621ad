"""How important each token of one text is, as the log has it from step to step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..journal.run import Run
from ..journal.schema import MeasurementRecord
from ..journal.tables import printable

SOURCE = "importance"
MOST_CHARACTERS = 600
"""Of a text that is kept at step after step: what fits on six lines of a picture."""
_BINS = 20
_MARKS = {"\n": "↵", "\t": "→", "\r": "←"}


@dataclass(frozen=True)
class ImportanceMap:
    """A text, token by token.

    Attributes:
        step: optimiser steps done.
        tokens: the text of each token, as it is: it may hold anything.
        values: its importance, from 0 to 1; None where it is not known.
    """

    step: int
    tokens: tuple[str, ...]
    values: tuple[float | None, ...]

    @property
    def shown(self) -> list[str]:
        """The text of each token on one line: no character that obeys, a line break as a mark."""
        return [visible(token) for token in self.tokens]

    def lines(self, width: int = 100) -> str:
        """Return the text with the tenths of importance below it: 7 is from 0.7 to below 0.8, and 9 includes 1."""
        letters = "".join(self.shown)
        digits = "".join(_tenth(value) * len(token) for token, value in zip(self.shown, self.values, strict=True))
        rows = [(letters[at : at + width], digits[at : at + width]) for at in range(0, len(letters), width)]
        return "\n".join(line.rstrip() for row in rows for line in row)


def importance_record(step: int, tokens: Sequence[str], values: Sequence[float]) -> MeasurementRecord:
    """Return the record of a text of at least one token: its first 600 characters at most.

    ``importance_text/mean``, ``std``, ``min``, ``max`` and the histogram (20 bins from 0 to 1) are of the tokens that are
    kept, whose texts and values stand in ``extra``.
    """
    kept, characters = 0, 0
    for token in tokens:
        characters += len(token)
        if kept and characters > MOST_CHARACTERS:
            break
        kept += 1
    known = np.asarray(values[:kept], dtype=np.float64)
    counts, _ = np.histogram(known, _BINS, (0.0, 1.0))
    return MeasurementRecord(
        iter=step,
        source=SOURCE,
        metrics={
            "importance_text/mean": float(known.mean()),
            "importance_text/std": float(known.std()),
            "importance_text/min": float(known.min()),
            "importance_text/max": float(known.max()),
        },
        histograms={"importance_text": {"low": 0.0, "high": 1.0, "counts": counts.tolist()}},
        extra={"tokens": list(tokens[:kept]), "importance": [round(value, 3) for value in known.tolist()]},
    )


def map_of(record: MeasurementRecord) -> ImportanceMap | None:
    """Return the map that a record holds; None where it holds none, or something else under its names."""
    tokens, values = record.extra.get("tokens"), record.extra.get("importance")
    if record.source != SOURCE or not isinstance(tokens, list) or not isinstance(values, list):
        return None
    if not tokens or len(tokens) != len(values) or not all(isinstance(token, str) for token in tokens):
        return None
    return ImportanceMap(record.iter, tuple(tokens), tuple(map(_share, values)))


def importance_maps(run: Run) -> list[ImportanceMap]:
    """Return all maps of a run in the order of the log."""
    return [found for record in run.measurements if (found := map_of(record)) is not None]


def scale_of(maps: Sequence[ImportanceMap]) -> tuple[float, float]:
    """Return where the scale of a picture begins and ends: the tenths around all known values, at least two of them.

    From 0 to 1 the shades of a text whose tokens are alike could not be told apart.
    """
    known = [value for found in maps for value in found.values if value is not None]
    if not known:
        return 0.0, 1.0
    low, high = math.floor(10 * min(known) + 1e-6), math.ceil(10 * max(known) - 1e-6)
    if high - low < 2:
        low = min(low, 8)
        high = low + 2
    return low / 10, high / 10


def visible(token: str) -> str:
    """Return a token's text on one line, with marks for line breaks and tabs and escapes for other control characters."""
    return printable("".join(_MARKS.get(letter, letter) for letter in token))


def _share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return min(max(float(value), 0.0), 1.0)


def _tenth(value: float | None) -> str:
    return " " if value is None else str(min(int(10 * value + 1e-9), 9))
