"""What the callbacks have measured of one run or a few: gradient norms, statistics of the model, speed and time."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from ..journal.measurements import measured_names, measurement_series, numbers
from ..journal.run import Run
from ..journal.schema import MeasurementRecord
from .axes import positions_at
from .series import Drawing, NothingToDraw, titled, x_axis
from .style import COLOURS, Style, finish, label_text, new_rows

_MOST_RUNS = 4
_MOST_LINES = 12  # with a name each
_NAMED_SHADES = 6


def draw_gradients(drawing: Drawing) -> Figure:
    """Gradient norms before clipping: of the parts of the model, and of its layers."""
    return _draw(drawing, "gradients", [(_gradients_of_parts, _draw_parts), (_gradients_of_layers, _draw_layers)])


def draw_statistics(drawing: Drawing) -> Figure:
    """How far a step moves the weights, the size of the activations, and the first and last histogram of the last layer."""
    panels = [(_update_ratios, _draw_updates), (_activations, _draw_activations), (_with_histograms, _draw_histograms)]
    return _draw(drawing, "statistics", panels)


def draw_throughput(drawing: Drawing) -> Figure:
    """Tokens a second of training alone, and the seconds that went into evaluation, sampling and so on."""
    return _draw(drawing, "throughput", [(_speed, _draw_speed), (_seconds_beside, _draw_seconds_beside)])


Known = Callable[[Run], Any]
Panel = Callable[[Axes, Run, Drawing], None]


def _draw(drawing: Drawing, source: str, panels: Sequence[tuple[Known, Panel]]) -> Figure:
    """A row for each run that has measured this, with the panels that one of these runs has something for.

    Raises:
        NothingToDraw: none has, or too many.
    """
    pairs = zip(drawing.runs, drawing.names, strict=True)
    having = [(run, name) for run, name in pairs if any(record.source == source for record in run.measurements)]
    kept = [draw for known, draw in panels if any(known(run) for run, _ in having)]
    drawing.need(bool(kept), f"no run has measured {source}")
    if len(having) > _MOST_RUNS:
        raise NothingToDraw(f"{len(having)} runs have measured {source}; name at most {_MOST_RUNS}")
    figure, rows = new_rows(len(having), len(kept), drawing.width)
    for (run, name), row in zip(having, rows, strict=True):
        for draw, axes in zip(kept, row, strict=True):
            draw(axes, run, drawing)
        if len(drawing.runs) > 1:
            row[0].set_title(f"{row[0].get_title(loc='left')}: {label_text(name)}", loc="left", fontsize=13)
    return titled(figure, drawing)


def _gradients_of_parts(run: Run) -> list[str]:
    return [name for name in _norms(run) if "/layer_" not in name]


def _gradients_of_layers(run: Run) -> list[str]:
    return [name for name in _norms(run) if "/layer_" in name]


def _norms(run: Run) -> list[str]:
    return [name for name in measured_names([run], "gradients") if name.startswith("grad_norm/")]


def _draw_parts(axes: Axes, run: Run, drawing: Drawing) -> None:
    _lines(axes, run, drawing, "gradients", _gradients_of_parts(run))
    finish(axes, "Gradient norms of the parts of the model", x_axis(axes, drawing), "norm before clipping")


def _draw_layers(axes: Axes, run: Run, drawing: Drawing) -> None:
    _lines(axes, run, drawing, "gradients", _gradients_of_layers(run))
    finish(axes, "Gradient norms of the layers", x_axis(axes, drawing), "norm before clipping")


def _update_ratios(run: Run) -> list[str]:
    return [name for name in measured_names([run], "statistics") if re.fullmatch(r"update_ratio/[a-z]+", name)]


def _draw_updates(axes: Axes, run: Run, drawing: Drawing) -> None:
    _lines(axes, run, drawing, "statistics", _update_ratios(run))
    finish(axes, "Step over weights", x_axis(axes, drawing), "norm of the step / norm of the weights")


def _activations(run: Run) -> list[str]:
    return [name for name in measured_names([run], "statistics") if name.endswith("/rms")]


def _draw_activations(axes: Axes, run: Run, drawing: Drawing) -> None:
    _lines(axes, run, drawing, "statistics", _activations(run), logarithmic=False)
    finish(axes, "Activations", x_axis(axes, drawing), "root mean square")


def _speed(run: Run) -> list[str]:
    name = "throughput/tokens_per_sec"
    return [name] if name in measured_names([run], "throughput") else []


def _draw_speed(axes: Axes, run: Run, drawing: Drawing) -> None:
    _lines(axes, run, drawing, "throughput", _speed(run), logarithmic=False)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    finish(axes, "Speed, of training alone", x_axis(axes, drawing), "tokens/s")


def _seconds_beside(run: Run) -> dict[str, float]:
    """What took time beside training, with the seconds of the whole run."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for record in run.measurements:
        for key, value in numbers(record).items() if record.source == "throughput" else ():
            if key.endswith("_s") and key != "throughput/data_wait_s" and value:  # waiting for data is training
                seconds[key.removeprefix("throughput/").removesuffix("_s").replace("_", " ")] += value
    return seconds


def _draw_seconds_beside(axes: Axes, run: Run, drawing: Drawing) -> None:
    seconds = _seconds_beside(run)
    names = sorted(seconds, key=lambda each: seconds[each])
    bars = axes.barh(names, [seconds[each] for each in names], color=COLOURS[0])
    axes.bar_label(bars, [f"{seconds[each]:.3g} s" for each in names], padding=4)
    axes.margins(x=0.2)
    axes.set_axisbelow(True)
    finish(axes, "What took time beside training", "seconds of the whole run", "")


def _lines(axes: Axes, run: Run, drawing: Drawing, source: str, names: Sequence[str], logarithmic: bool = True) -> None:
    """A line a name; of very many, as of deep models, shades from the first to the last, a few of which the legend names."""
    positive, many = True, len(names) > _MOST_LINES
    named = set(np.linspace(0, len(names) - 1, _NAMED_SHADES).round().astype(int)) if many else range(len(names))
    for place, name in enumerate(names):
        steps, y = measurement_series(run, source, name)
        x = positions_at(run, drawing.x, steps)
        if x is None:
            continue
        positive = positive and bool((y > 0).all())
        style = Style.of(place)
        axes.plot(
            x,
            y,
            color=colormaps["viridis"](place / len(names)) if many else style.colour,
            linestyle="-" if many else style.line,
            linewidth=1.6,
            marker="o" if len(y) <= 1 else "",
            label=label_text(name.removesuffix("/rms").rpartition("/")[2]) if place in named else None,
        )
    if len(names) > 1 and axes.has_data():
        _name_lines(axes, drawing)
    if logarithmic and names and positive:
        axes.set_yscale("log")


def _name_lines(axes: Axes, drawing: Drawing) -> None:
    """The legend of a panel: where the curves leave room, or beside it in a picture for a page, where they leave none."""
    if drawing.width is None:
        axes.legend(frameon=False, ncols=2)
    else:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.2, borderaxespad=0.2)


def _with_histograms(run: Run) -> list[MeasurementRecord]:
    return [record for record in run.measurements if record.source == "statistics" and record.histograms]


def _draw_histograms(axes: Axes, run: Run, drawing: Drawing) -> None:
    """The first and the last histogram of the last layer's activations, or of weights where there are none."""
    records = _with_histograms(run)
    names = (
        sorted(records[-1].histograms or {}, key=lambda name: (name.startswith("activation/"), name)) if records else []
    )
    for record, colour in zip(records[:1] + records[1:][-1:], COLOURS, strict=False):
        if (bins := (record.histograms or {}).get(names[-1])) is not None:
            edges = np.linspace(bins["low"], bins["high"], len(bins["counts"]) + 1)
            density = np.array(bins["counts"]) / (np.sum(bins["counts"]) * np.diff(edges))
            axes.stairs(density, edges, color=colour, linewidth=2, label=f"step {record.iter}")
    if axes.has_data():
        _name_lines(axes, drawing)
    finish(axes, f"Histogram of {names[-1]}" if names else "Histogram", "value", "density")
