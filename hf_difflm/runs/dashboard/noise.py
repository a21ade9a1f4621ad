"""The panels of the dashboard that only a masked diffusion model has: quality by masking rate, and the rate itself."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from ..journal.run import Run
from ..journal.schema import EvaluationRecord
from ..plots.axes import step_series
from ..plots.style import COLOURS
from .panels import TICK_SIZE, finish_panel, missing

_BIN = re.compile(r"eval_(nll|loss|accuracy)_noise_(\d\.\d+)")
_BANDS = 100  # buckets of the band
_ROWS_A_BAND = 10
_NARROW: dict[str, Any] = {"columnspacing": 0.8, "handletextpad": 0.3, "handlelength": 1.2, "borderaxespad": 0.1}


def is_diffusion(run: Run) -> bool:
    """Return whether the run masks tokens: it says so, or it has logged masking rates."""
    return run.bound == "nelbo" or bool(np.isfinite(run.column("masking_rate")).any()) or _binned(run) is not None


def draw_by_noise(axes: Axes, run: Run) -> None:
    """The loss of the last evaluation by masking rate, the first evaluation's beside it; accuracy where that is known."""
    quantity = _binned(run) or "nll"
    found = [(record, bins) for record in run.evaluations if (bins := _bins(record, quantity))]
    accuracy = quantity == "accuracy"
    scale = 100 if accuracy else 1
    if found:
        first, last = found[0], found[-1]
        record, bins = last
        edges = np.array(sorted(bins))
        width = float(np.diff(edges).min()) if len(edges) > 1 else float(edges[0])
        centres = edges - width / 2
        axes.bar(
            centres,
            [scale * bins[edge] for edge in edges],
            0.82 * width,
            color=COLOURS[0],
            label=_at(record),
        )
        if first is not last:
            known = [(edge - width / 2, scale * value) for edge, value in sorted(first[1].items())]
            style = {"color": COLOURS[1], "marker": "_", "markersize": 16, "markeredgewidth": 3, "linestyle": "none"}
            axes.plot(*np.array(known).T, label=_at(first[0]), **style)  # type: ignore[arg-type]
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.3 * axes.dataLim.y1 or 1.0)  # room for the legend
        axes.legend(loc="upper right", fontsize=TICK_SIZE, frameon=False, ncols=2, **_NARROW)
    finish_panel(
        axes,
        f"Eval {'accuracy' if accuracy else 'loss'} by masking rate",
        "accuracy (%)" if accuracy else "nats/masked token",
        "no such evaluation yet",
        "masking rate",
    )


def draw_masking_rate(axes: Axes, run: Run) -> None:
    """The masking rate over steps: the mean of each stretch, and the band from its lowest to its highest sequence."""
    x, y = step_series(run, "masking_rate", "step")
    stretches = min(len(y) // _ROWS_A_BAND, _BANDS)
    if stretches > 1:
        starts = np.linspace(0, len(y), stretches, endpoint=False).astype(int)
        sizes = np.diff(np.append(starts, len(y)))
        centres, means = np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
        lowest, highest = _band(run, y)
        low, high = np.minimum.reduceat(lowest, starts), np.maximum.reduceat(highest, starts)
        axes.fill_between(centres, low, high, color=COLOURS[4], alpha=0.4, linewidth=0, label="range")
        axes.plot(centres, means, color=COLOURS[0], linewidth=2, label="mean")
        axes.legend(loc="upper right", fontsize=TICK_SIZE, frameon=False, ncols=2, **_NARROW)
    elif len(y):
        axes.fill_between(x, *_band(run, y), color=COLOURS[4], alpha=0.4, linewidth=0)
        axes.plot(x, y, color=COLOURS[0], linewidth=1.6, marker="o", markersize=4)
    if len(y):
        axes.set_ylim(0, 1.25)  # room for the legend
        axes.set_yticks([0, 0.5, 1])
    finish_panel(axes, "Masking rate", "share of the tokens", missing(run, "masking_rate", "masking rate"))


def _band(run: Run, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest sequence of each step where the log has them, else the step's mean itself."""
    known = np.isfinite(run.column("iter")) & np.isfinite(run.column("masking_rate"))
    low, high = (run.column(f"masking_rate_{side}")[known] for side in ("min", "max"))
    return np.where(np.isfinite(low), low, means), np.where(np.isfinite(high), high, means)


def _binned(run: Run) -> str | None:
    """The quantity that evaluations give by masking rate, the loss before the accuracy; None where there is none."""
    for quantity in ("nll", "loss", "accuracy"):
        if any(_bins(record, quantity) for record in run.evaluations):
            return quantity
    return None


def _at(record: EvaluationRecord) -> str:
    return f"step {EngFormatter(sep='')(record.iter) if record.iter >= 20_000 else record.iter}"


def _bins(record: EvaluationRecord, quantity: str) -> dict[float, float]:
    """The upper edge of each bin of masking rates to the quantity in it."""
    found = {}
    for name in record.metrics:
        match = _BIN.fullmatch(name)
        value = record.number(name)
        if match and match[1] == quantity and value is not None and np.isfinite(value):
            found[float(match[2])] = float(value)
    return found
