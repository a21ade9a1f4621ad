"""What the callbacks have measured of one run or a few: gradient norms, statistics of the model, speed and time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..journal.measurements import measured_names, measurement_series, numbers
from ..journal.run import Run
from .series import Drawing, NothingToDraw, titled
from .style import COLOURS, finish, label_text, new_rows

_MOST_RUNS = 4
_COLOURS = (*COLOURS, "black")


def draw_gradients(drawing: Drawing) -> Figure:
    """Gradient norms before clipping: of the parts of the model, and of its layers."""
    figure, rows = _rows(drawing, "gradients", 2)
    for run, name, (parts, layers) in rows:
        names = [each for each in measured_names([run], "gradients") if each.startswith("grad_norm/")]
        in_layers = [each for each in names if "/layer_" in each]
        _lines(parts, run, "gradients", [each for each in names if each not in in_layers])
        _lines(layers, run, "gradients", in_layers)
        for axes, what in ((parts, "parts of the model"), (layers, "layers")):
            finish(axes, f"Gradient norms of the {what}{name}", "optimiser step", "norm before clipping")
    return titled(figure, drawing)


def draw_statistics(drawing: Drawing) -> Figure:
    """How far a step moves the weights, the size of the activations, and the first and last histogram of the last layer."""
    figure, rows = _rows(drawing, "statistics", 3)
    for run, name, (ratios, activations, histogram) in rows:
        names = measured_names([run], "statistics")
        _lines(ratios, run, "statistics", [each for each in names if re.fullmatch(r"update_ratio/[a-z]+", each)])
        _lines(activations, run, "statistics", [each for each in names if each.endswith("/rms")], logarithmic=False)
        shown = _histograms(histogram, run)
        finish(ratios, f"Step over weights{name}", "optimiser step", "update_ratio")
        finish(activations, "Activations", "optimiser step", "root mean square")
        finish(histogram, f"Histogram of {shown}" if shown else "No histogram was logged", "value", "density")
    return titled(figure, drawing)


def draw_throughput(drawing: Drawing) -> Figure:
    """Tokens a second of training alone, and the seconds that went into evaluation, sampling and so on."""
    figure, rows = _rows(drawing, "throughput", 2)
    for run, name, (speed, beside) in rows:
        _lines(speed, run, "throughput", ["throughput/tokens_per_sec"], logarithmic=False)
        speed.set_ylim(bottom=0)
        seconds: defaultdict[str, float] = defaultdict(float)
        for record in run.measurements:
            for key, value in numbers(record).items() if record.source == "throughput" else ():
                if key.endswith("_s") and key != "throughput/data_wait_s" and value:  # waiting for data is training
                    seconds[key.removeprefix("throughput/")] += value
        names = sorted(seconds, key=lambda each: seconds[each])
        bars = beside.barh(names, [seconds[each] for each in names], color=COLOURS[0])
        beside.bar_label(bars, [f"{seconds[each]:.3g} s" for each in names], padding=4)
        if names:
            beside.set_xscale("log")
        beside.margins(x=0.2)
        finish(speed, f"Speed, of training alone{name}", "optimiser step", "tokens/s")
        finish(beside, "What took time beside training", "seconds of the whole run", "")
    return titled(figure, drawing)


def _rows(drawing: Drawing, source: str, panels: int) -> tuple[Figure, list[tuple[Run, str, Sequence[Axes]]]]:
    """The figure, and a row of it for each run that has measured this: run, what to add to its first title, panels.

    Raises:
        NothingToDraw: none has, or too many.
    """
    pairs = zip(drawing.runs, drawing.names, strict=True)
    having = [(run, name) for run, name in pairs if any(record.source == source for record in run.measurements)]
    drawing.need(bool(having), f"no run has measured {source}")
    if len(having) > _MOST_RUNS:
        raise NothingToDraw(f"{len(having)} runs have measured {source}; name at most {_MOST_RUNS}")
    figure, axes = new_rows(len(having), panels)
    titles = [f": {label_text(name)}" if len(drawing.runs) > 1 else "" for _, name in having]
    return figure, [(run, title, row) for (run, _), title, row in zip(having, titles, axes, strict=True)]


def _lines(axes: Axes, run: Run, source: str, names: Sequence[str], logarithmic: bool = True) -> None:
    positive = True
    for place, name in enumerate(names):
        x, y = measurement_series(run, source, name)
        positive = positive and bool((y > 0).all())
        marker = "o" if len(y) <= 1 else ""
        label = label_text(name.removesuffix("/rms").rpartition("/")[2])
        axes.plot(x, y, color=_COLOURS[place % len(_COLOURS)], linewidth=1.6, marker=marker, label=label)
    if len(names) > 1:
        axes.legend(frameon=False, ncols=2)
    if logarithmic and names and positive:
        axes.set_yscale("log")


def _histograms(axes: Axes, run: Run) -> str | None:
    """Draw the first and the last histogram of the last layer's activations, or of weights where there are none."""
    records = [record for record in run.measurements if record.source == "statistics" and record.histograms]
    if not records:
        return None
    names = sorted(records[-1].histograms or {}, key=lambda name: (name.startswith("activation/"), name))
    for record, colour in zip(dict.fromkeys((0, len(records) - 1)), COLOURS, strict=False):
        bins = (records[record].histograms or {}).get(names[-1])
        if bins is not None:
            edges = np.linspace(bins["low"], bins["high"], len(bins["counts"]) + 1)
            density = np.array(bins["counts"]) / (np.sum(bins["counts"]) * np.diff(edges))
            axes.stairs(density, edges, color=colour, linewidth=2, label=f"step {records[record].iter}")
    axes.legend(frameon=False)
    return names[-1]
