"""The panels of the dashboard that show training: loss, accuracy, throughput, learning rate, and how they go together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from ..journal.quantities import STEP, quantity_in
from ..journal.run import Run
from ..plots.axes import evaluation_series, step_series
from ..plots.decimation import decimate, moving_mean
from ..plots.style import COLOURS, finish, scale_x
from .stages import mark_stages

_Within = Callable[[np.ndarray], np.ndarray]
AVERAGED_STEPS = 50
RECENT_STEPS = 500
TEXT_SIZE, TICK_SIZE, TITLE_SIZE = 12, 11, 14
LOSS, AVERAGE, ACCURACY, THROUGHPUT, GRADIENT, RATE = COLOURS
_RATE_SHARE = 1e-4
_POINTS = 800  # a panel is not much wider than half of that in dots
_FEW = 60
_STEP = "optimiser step"
_TRL_ACCURACY = "mean_token_accuracy"
# What a legend of two or three lines covers of a panel.
_LEFT, _RIGHT = (lambda x: x < 0.42), (lambda x: x > 0.58)
_HIGH, _LOW = (lambda y: y > 0.6), (lambda y: y < 0.4)
_CORNERS: dict[Literal["upper right", "upper left", "lower right", "lower left"], tuple[_Within, _Within]] = {
    "upper right": (_RIGHT, _HIGH),
    "upper left": (_LEFT, _HIGH),
    "lower right": (_RIGHT, _LOW),
    "lower left": (_LEFT, _LOW),
}


def draw_loss(axes: Axes, run: Run) -> None:
    """Training loss, its moving mean over 50 steps, the evaluations with their standard errors, the curriculum's stages."""
    x, y = step_series(run, "loss", "step")
    _draw_series(axes, run, x, y, LOSS, "training")
    at, nll, errors = evaluation_series(run, "step")
    if len(at):
        axes.errorbar(
            at, nll, yerr=errors if errors.any() else None, fmt="D", color="0.15", markersize=5, capsize=3, label="eval"
        )
    _log_if_wide(axes)
    finish_panel(axes, "Training loss", run.training_loss_label, "no loss yet")
    legend(axes)
    mark_stages(axes, run, TICK_SIZE)


def draw_accuracy(axes: Axes, run: Run) -> None:
    """Training accuracy, its moving mean over 50 steps, and that of the evaluations; from 0 to 100 % where it is a share."""
    x, y = accuracy_series(run)
    _draw_series(axes, run, x, y, ACCURACY, "training")
    at, values, _ = evaluation_series(run, "step", f"eval_{accuracy_name(run)}")
    if len(at):
        axes.plot(at, _drawn_accuracy(run, values), "D", color="0.15", markersize=5, label="eval")
    if accuracy_is_share(run):
        axes.set_ylim(0, 100)
    title = "Accuracy" if accuracy_name(run) == "accuracy" else "Mean token accuracy"
    finish_panel(axes, title, accuracy_label(run), missing(run, "accuracy"))
    legend(axes)


def draw_throughput(axes: Axes, run: Run) -> None:
    """Scored tokens per second of training, and their moving mean over 50 steps."""
    x, y = step_series(run, "tokens_per_sec", "step")
    _draw_series(axes, run, x, y, THROUGHPUT, "each log")
    if len(y):
        axes.set_ylim(0, 1.15 * float(y.max()) or 1.0)
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    finish_panel(axes, "Throughput", "tokens/s", missing(run, "tokens_per_sec", "throughput"))
    legend(axes)


def draw_learning_rate(axes: Axes, run: Run) -> None:
    """The learning rate on a logarithmic axis over at most four decades, the gradient norm on a second one.

    A warm-up begins and a schedule ends at 0 or next to it, which would leave no room for the rates that train.
    """
    x, y = step_series(run, "lr", "step")
    title, label = "Learning rate", "learning rate"
    if len(y):
        shown = y > _RATE_SHARE * y.max()
        x, y = (x[shown], y[shown]) if shown.any() else (x, y)
        axes.plot(*decimate(x, y, _POINTS), color=RATE, linewidth=2.2, marker=_marker(y), markersize=4)
        if y.min() > 0:
            _log_axis(axes, float(y.min()), float(y.max()))
    x, norms = step_series(run, "grad_norm", "step")
    if len(norms) and axes.has_data():
        title = "Learning rate, gradient norm"
        right = _second_axis(axes)
        right.plot(*decimate(x, norms, _POINTS), color=GRADIENT, linewidth=0.9, alpha=0.9)
        right.set_ylabel("gradient norm", fontsize=TEXT_SIZE, color=_darker(GRADIENT))
        positive = norms[norms > 0]
        if len(positive) == len(norms):
            _log_axis(right, float(norms.min()), float(norms.max()))
        axes.set_zorder(right.get_zorder() + 1)  # the rate is the thicker line: above the norms
        axes.patch.set_visible(False)
    finish_panel(axes, title, label, missing(run, "lr", "learning rate"))


def draw_loss_against_accuracy(axes: Axes, bar: Axes, run: Run) -> None:
    """Each logged step as a point, coloured by its step; the colour bar goes into ``bar``."""
    loss, accuracy = run.column("loss"), _drawn_accuracy(run, run.column(accuracy_name(run)))
    rows = np.flatnonzero(np.isfinite(loss) & np.isfinite(accuracy))
    bar.set_axis_off()
    if len(rows):
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _POINTS)).astype(int))]
        steps = run.column("iter")[rows]
        colours = Normalize(steps.min(), max(float(steps.max()), float(steps.min()) + 1))
        axes.scatter(
            loss[rows],
            accuracy[rows],
            c=steps,
            s=14 if len(rows) > _FEW else 45,
            cmap="viridis",
            norm=colours,
            linewidths=0,
        )
        if loss[rows].min() > 0 and loss[rows].max() > 100 * loss[rows].min():
            axes.set_xscale("log")
        bar.set_axis_on()
        drawn = axes.figure.colorbar(ScalarMappable(colours, "viridis"), cax=bar)
        drawn.locator = MaxNLocator(nbins=5, integer=True, min_n_ticks=1)
        drawn.formatter = (
            EngFormatter(sep="") if steps.max() >= 20_000 else FuncFormatter(lambda value, _: f"{value:g}")
        )
        drawn.update_ticks()
        bar.tick_params(labelsize=TICK_SIZE)
        bar.set_title("step", fontsize=TICK_SIZE, y=1.0)
    finish_panel(axes, "Loss against accuracy", accuracy_label(run), missing(run, "accuracy"), run.training_loss_label)


def draw_recent(axes: Axes, run: Run) -> None:
    """Loss (left axis) and accuracy (right axis) of the last 500 steps."""
    last = float(run.column("iter")[-1]) if len(run.steps) else 0.0
    x, y = _after(last - RECENT_STEPS, *step_series(run, "loss", "step"))
    if len(y):
        axes.plot(x, y, color=LOSS, linewidth=1.2, marker=_marker(y), markersize=4)
    x, accuracy = _after(last - RECENT_STEPS, *accuracy_series(run))
    if len(accuracy) and axes.has_data():
        right = _second_axis(axes)
        right.plot(x, accuracy, color=ACCURACY, linewidth=1.4, linestyle="--", marker=_marker(accuracy), markersize=4)
        right.set_ylabel(f"{accuracy_label(run)}, dashed", fontsize=TEXT_SIZE, color=_darker(ACCURACY))
    _log_if_wide(axes)
    finish_panel(axes, f"Last {RECENT_STEPS} {run.step_word}s", run.training_loss_label, "no loss yet")
    if axes.has_data():
        axes.yaxis.label.set_color(LOSS)


def accuracy_series(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and training accuracy as :func:`accuracy_label` says, each of shape (n,)."""
    x, y = step_series(run, accuracy_name(run), "step")
    return x, _drawn_accuracy(run, y)


def accuracy_name(run: Run) -> str:
    """Return what the log calls the share of tokens that were right: ``accuracy``, or as TRL does."""
    return (
        _TRL_ACCURACY
        if _TRL_ACCURACY in run.steps.quantities and "accuracy" not in run.steps.quantities
        else "accuracy"
    )


def accuracy_is_share(run: Run) -> bool:
    """Whether accuracies are known to be shares, as ours and TRL's are; another program's may be anything."""
    known = quantity_in("accuracy", run.objective)
    return accuracy_name(run) == _TRL_ACCURACY or (known is not None and known.unit == STEP["accuracy"].unit)


def accuracy_label(run: Run) -> str:
    """Return what stands beside accuracies."""
    return "accuracy (%)" if accuracy_is_share(run) else "accuracy"


def _drawn_accuracy(run: Run, values: np.ndarray) -> np.ndarray:
    """Shares in per cent, where values above 1 are that already; what another program calls accuracy as it was logged."""
    known = values[np.isfinite(values)]
    return values if not accuracy_is_share(run) or (len(known) and known.max() > 1.0) else 100 * values


def missing(run: Run, quantity: str, name: str | None = None) -> str:
    """Return what stands in a panel without data: that nothing has come yet, or that this run does not log it."""
    return f"{name or quantity}: not logged" if len(run.steps) else f"no {name or quantity} yet"


def finish_panel(axes: Axes, title: str, y_label: str, nothing: str, x_label: str = _STEP) -> None:
    """Titles, units and grid as in every picture, in letters for a projector; a sentence where there is no data."""
    if axes.has_data():
        if x_label == _STEP:
            scale_x(axes, "step")
            # Fewer than in a picture of its own: the panel is narrow.
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
        finish(axes, title, x_label, y_label)
        axes.xaxis.label.set_fontsize(TEXT_SIZE)
        axes.yaxis.label.set_fontsize(TEXT_SIZE)
        axes.tick_params(labelsize=TICK_SIZE)
    else:
        say(axes, nothing)
    # At a given height: to look for one that clears all labels takes a tenth of the time of the picture.
    axes.set_title(title, loc="left", fontsize=TITLE_SIZE, y=1.0)


def say(axes: Axes, sentence: str) -> None:
    """Put a sentence where a panel has nothing to show."""
    axes.set_axis_off()
    place = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, sentence, color="0.4", fontsize=TEXT_SIZE, **place)  # type: ignore[arg-type]


def _draw_series(axes: Axes, run: Run, x: np.ndarray, y: np.ndarray, colour: str, name: str) -> None:
    """A series, light where its moving mean over 50 steps is drawn over it."""
    if not len(y):
        return
    rows = _averaged_points(x)
    averaged = rows > 1 and len(y) >= rows
    axes.plot(
        *decimate(x, y, _POINTS),
        color=colour,
        linewidth=0.9 if averaged else 1.6,
        alpha=0.55 if averaged else 1.0,
        marker=_marker(y),
        markersize=4,
        label=name,
    )
    if averaged:
        mean = decimate(x, moving_mean(y, rows), _POINTS)
        colour = RATE if colour == ACCURACY else AVERAGE
        axes.plot(
            *mean, color=colour, linewidth=2.2, linestyle="--", label=f"mean of {AVERAGED_STEPS} {run.step_word}s"
        )


def _averaged_points(x: np.ndarray) -> int:
    """How many points are 50 steps; a stock Trainer has one for several, a callback one a report."""
    return max(1, round(AVERAGED_STEPS / max(float(np.median(np.diff(x, prepend=0.0))), 1.0)))


def _after(step: float, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x[x > step], y[x > step]


def _marker(y: np.ndarray) -> str:
    return "o" if len(y) <= _FEW else ""


def legend(axes: Axes) -> None:
    """Say which line is which, where there are several, in the corner with the fewest points."""
    if len(axes.get_legend_handles_labels()[1]) > 1:
        # To look for the best of all places, as matplotlib does, takes longer than to draw the panel.
        axes.legend(loc=_emptiest(axes), fontsize=TICK_SIZE, framealpha=0.7, edgecolor="none", borderpad=0.2)


def _emptiest(axes: Axes) -> Literal["upper right", "upper left", "lower right", "lower left"]:
    axes.get_xlim(), axes.get_ylim()  # the limits follow the data only when asked for
    points = np.concatenate([line.get_xydata() for line in axes.lines])
    points = axes.transLimits.transform(axes.transScale.transform(points[np.isfinite(points).all(axis=1)]))
    x, y = points.T
    return min(_CORNERS, key=lambda corner: int((_CORNERS[corner][0](x) & _CORNERS[corner][1](y)).sum()))


def _second_axis(axes: Axes) -> Axes:
    right = axes.twinx()
    right.spines["top"].set_visible(False)
    right.tick_params(labelsize=TICK_SIZE)
    return right


def _log_if_wide(axes: Axes) -> None:
    """Show more than two decades, such as a loss that diverges, on a logarithmic axis."""
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if 0 < low <= high < math.inf and high / low > 100:
        _log_axis(axes, low, high)


def _log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis over at least a decade, with few and plain labels."""
    axes.set_yscale("log")
    middle = (math.log10(low) + math.log10(high)) / 2
    half = 0.54 * max(math.log10(high) - math.log10(low), 1.0)
    axes.set_ylim(10.0 ** max(middle - half, -300.0), 10.0 ** min(middle + half, 300.0))
    decades = 2 * half
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(_plain_number))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _plain_number(value: float, _: object = None) -> str:
    return f"{value:g}" if 1e-2 <= value < 1e4 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _darker(colour: str) -> str:
    """The same hue for letters, which need more contrast than lines."""
    return "#" + "".join(f"{int(int(colour[place : place + 2], 16) * 0.7):02x}" for place in (1, 3, 5))
