"""The forms in which numbers and texts go to trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import UserError
from ...runs.journal.tables import printable
from ..measuring.histograms import Histogram, unpacked


@dataclass(frozen=True)
class Bins:
    """Bins of equal width: ``counts[i]`` values lie in the i-th part of ``low`` to ``high``."""

    low: float
    high: float
    counts: Sequence[float]

    @property
    def edges(self) -> np.ndarray:
        """(bins + 1,): where the bins begin and end."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    @property
    def centres(self) -> np.ndarray:
        """(bins,): the middle of each bin."""
        return (self.edges[:-1] + self.edges[1:]) / 2


def bins_of(values: Any) -> Bins | None:
    """Return how the finite ones of ``values`` are distributed; None where there are none.

    Args:
        values: a tensor (counted where it is), an array, a sequence of numbers, or a histogram as the run log has it:
            ``{"low", "high", "counts"}``, which is taken as it is.
    """
    if not isinstance(values, Mapping):
        if not isinstance(values, torch.Tensor):
            values = torch.as_tensor(np.asarray(values, dtype=np.float64))
        if not values.numel():
            return None
        histogram = Histogram(values.device)
        histogram.add(values)
        values = unpacked(histogram.pack().tolist()) or {}
    counts, low, high = values.get("counts"), values.get("low"), values.get("high")
    if not counts or low is None or high is None:
        return None
    return Bins(float(low), float(high), list(counts))


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics as Python numbers, without those that are None.

    Raises:
        UserError: a metric is no number.
    """
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if value is None:
            continue
        try:
            number = value.item() if callable(getattr(value, "item", None)) else value
            numbers[name] = int(number) if isinstance(number, (bool, int)) else float(number)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"metric {name!r} is {str(value)[:80]!r}; give a number") from error
    return numbers


def block(text: str) -> str:
    """Return Markdown that shows ``text`` as it is, letter by letter: whatever is in it, nothing is markup.

    A fence of backticks could be closed by the text itself, an indented block cannot.
    """
    return "\n".join(f"    {line}" for line in printable(text).splitlines() or [""])


def cell(value: Any) -> Any:
    """Return a value for a cell of a table: None, a number, or text that no terminal, page or file breaks at."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return printable(str(value))
