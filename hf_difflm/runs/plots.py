"""Pictures of runs. The only module here that imports matplotlib, and without the global state of pyplot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..errors import UserError
from .comparison import labels
from .decimation import decimate, moving_mean
from .files import replacing
from .run import Run

# Okabe and Ito's colours, told apart by the colour-blind; black and yellow left out: axes and paper have those.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_LINES = ("-", "--", ":")
_BOUND_NOTES = {"nelbo": "upper bound", "exact": "exact"}


def plot_comparison(runs: Sequence[Run], path: str | Path, title: str | None = None) -> Path:
    """Draw training loss and evaluation nll over steps, one colour a run, and return the path of the picture.

    Left: every logged training loss (light) and its moving mean (centred). Right: evaluation nll with
    standard errors, and the nll of the source itself where it is known. The format follows the suffix of ``path``:
    png, svg or pdf.

    Raises:
        UserError: no run was given, or matplotlib does not know the suffix.
    """
    if not runs:
        raise UserError("there is no run to plot; give at least one run folder")
    path = Path(path)
    figure = Figure(figsize=(12.8, 5.4), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    canvas = FigureCanvasAgg(figure)
    if path.suffix.lstrip(".").lower() not in canvas.get_supported_filetypes():
        raise UserError(f"{str(path)!r} has no suffix of a picture; end it in .png, .svg or .pdf")
    training, evaluation = figure.subplots(1, 2, sharex=True)
    for place, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
        _draw_training(training, run, place)
        _draw_evaluation(evaluation, run, place, label)
    _draw_sources(evaluation, runs)
    _finish(training, "Training loss", "loss (nats/token)")
    _finish(evaluation, "Evaluation", "nll (nats/token) ± standard error")
    # Runs first: matplotlib would put the plain line of a source before them.
    pairs = zip(*evaluation.get_legend_handles_labels(), strict=True)
    handles, names = zip(*sorted(pairs, key=lambda pair: isinstance(pair[0], Line2D)), strict=True)
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 3), frameon=False, fontsize=11)
    if title:
        figure.suptitle(title, fontsize=14)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path


def _style(place: int) -> tuple[str, str, str]:
    """Colour, marker and line of a run; the line changes when the colours have been used up."""
    size = len(_COLOURS)
    return _COLOURS[place % size], _MARKERS[place % size], _LINES[place // size % len(_LINES)]


def _draw_training(axes: Axes, run: Run, place: int) -> None:
    colour, _, line = _style(place)
    steps, losses = run.column("iter"), run.column("loss")
    known = np.isfinite(losses)
    steps, losses = steps[known], losses[known]
    if not len(losses):
        return
    window = smoothing_window(len(losses))
    if window > 1:
        axes.plot(*decimate(steps, losses), color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(*decimate(steps, moving_mean(losses, window)), color=colour, linestyle=line, linewidth=2.0)
    else:
        axes.plot(steps, losses, color=colour, linestyle=line, linewidth=2.0, marker="o", markersize=4)


def _draw_evaluation(axes: Axes, run: Run, place: int, label: str) -> None:
    colour, marker, line = _style(place)
    records = [
        (record.iter, record.nll, record.nll_stderr or 0.0) for record in run.evaluations if record.nll is not None
    ]
    steps, nlls, errors = np.array(records, dtype=np.float64).reshape(-1, 3).T
    note = _BOUND_NOTES.get(run.bound or "", run.bound)
    axes.errorbar(
        steps,
        nlls,
        yerr=errors,
        color=colour,
        marker=marker if len(steps) <= 60 else None,
        markersize=5,
        linestyle=line,
        linewidth=1.6,
        capsize=3,
        label=f"{label} ({note})" if note else label,
    )


def _draw_sources(axes: Axes, runs: Sequence[Run]) -> None:
    for source in sorted({run.source_nll for run in runs if run.source_nll is not None}):
        axes.axhline(
            source, color="0.25", linestyle=(0, (6, 4)), linewidth=1.2, label=f"source: {source:.4f} nats/token"
        )


def smoothing_window(rows: int) -> int:
    """Rows in the moving mean: 100, fewer in a short run, 1 (none) below 20 rows."""
    return max(1, min(100, rows // 10)) if rows >= 20 else 1


def _finish(axes: Axes, title: str, quantity: str) -> None:
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel("optimiser step", fontsize=11)
    axes.set_ylabel(quantity, fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", transform=axes.transAxes, color="0.4")
