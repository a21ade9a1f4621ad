"""Pictures of evaluation: validation curves, training beside validation, and when a quality was reached."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..comparing.seeds import SeedGroup
from ..journal.run import Run
from .axes import AXES, evaluation_series, step_series
from .decimation import decimate
from .series import (
    Curve,
    Drawing,
    NothingToDraw,
    bound_note,
    draw_line,
    group_curve,
    group_handles,
    group_names,
    titled,
    x_axis,
)
from .style import Style, finish, label_text, legend, log_y_if_wide, new_figure, scale_x, stacked
from .training import smoothed_loss

_MILESTONE_AXES = ("step", "tokens", "time")
_RAW_RUNS = 4  # beyond it the single steps hide more than they show


def draw_comparison(drawing: Drawing) -> Figure:
    """Left: training loss, every step (light) and its moving mean. Right: evaluation nll. One curve a group."""
    figure, (training, evaluation) = new_figure(2, drawing.width)
    for place, group in enumerate(drawing.groups):
        style = Style.of(place)
        if len(drawing.runs) <= _RAW_RUNS and len(group.runs) == 1:
            x, y = step_series(group.runs[0], "loss", drawing.x)
            if len(y) > 60:
                training.plot(*decimate(x, y), color=style.colour, alpha=0.3, linewidth=0.8)
        draw_line(training, group_curve([smoothed_loss(run, drawing.x) for run in group.runs]), style)
    log_y_if_wide(training)
    finish(training, "Training loss", x_axis(training, drawing), drawing.loss_label)
    handles, names = _draw_nll(evaluation, drawing)
    finish(evaluation, "Evaluation", x_axis(evaluation, drawing), f"{drawing.nll_label} ± standard error")
    if training.has_data() and evaluation.has_data():
        limits = [edge for axes in (training, evaluation) for edge in axes.get_xlim()]
        for axes in (training, evaluation):
            axes.set_xlim(min(limits), max(limits))
    legend(figure, handles, names)
    return titled(figure, drawing)


def draw_validation(drawing: Drawing) -> Figure:
    """Evaluation nll with standard errors; several seeds as mean and band."""
    figure, (axes,) = new_figure(width=drawing.width)
    handles, names = _draw_nll(axes, drawing)
    if not any(run.final_evaluation for run in drawing.runs):
        raise NothingToDraw("no evaluation was logged")
    drawing.need(axes.has_data(), "no evaluation was logged")
    finish(axes, "Evaluation", x_axis(axes, drawing), f"{drawing.nll_label} ± standard error")
    legend(figure, handles, names)
    return titled(figure, drawing)


def draw_milestones(drawing: Drawing) -> Figure:
    """The steps, tokens and training time after which an evaluation was first at or below each of a few thresholds."""
    thresholds = milestone_thresholds(drawing.runs)
    if not len(thresholds):
        raise NothingToDraw("no run has two evaluations that differ, so there is no threshold to reach")
    known = [axis for axis in _MILESTONE_AXES if any(len(evaluation_series(run, axis)[0]) for run in drawing.runs)]
    figure, panels = new_figure(len(known), drawing.width)
    for axes, axis in zip(panels, known, strict=True):
        for place, group in enumerate(drawing.groups):
            curve = group_curve([_reached_curve(run, axis, thresholds) for run in group.runs])
            style = Style.of(place)
            axes.errorbar(
                curve.y,
                -curve.x,  # thresholds fall; what is averaged over seeds must rise
                xerr=curve.error,
                color=style.colour,
                marker=style.marker,
                linestyle=style.line,
                markersize=6,
                linewidth=1.4,
                capsize=3,
            )
        labelled = axes is panels[0] or stacked(len(known), drawing.width)
        finish(axes, "", AXES[axis].label, f"evaluation {drawing.nll_label}, reached" if labelled else "")
        axes.set_yticks(thresholds)
        axes.set_ylim(*_margin(thresholds))
        if axes.has_data():
            axes.set_xlim(left=0)
            axes.set_xlabel(scale_x(axes, axis), fontsize=11)
    panels[0].set_title("When an evaluation first reached each threshold", fontsize=13, loc="left")
    legend(figure, group_handles(drawing), group_names(drawing, _best_note))
    return titled(figure, drawing)


def milestone_thresholds(runs: list[Run]) -> np.ndarray:
    """Return up to eight round nll values, falling, between the first evaluations and the best; shape (n,)."""
    nlls = [evaluation_series(run, "step")[1] for run in runs]
    nlls = [values for values in nlls if len(values) > 1]
    if not nlls:
        return np.empty(0)
    highest, lowest = max(values[0] for values in nlls), min(values.min() for values in nlls)
    if highest <= lowest:
        return np.empty(0)
    ticks = np.asarray(MaxNLocator(nbins=9, steps=[1, 2, 5, 10]).tick_values(lowest, highest))
    return ticks[(ticks >= lowest) & (ticks < highest)][::-1]


def milestones(run: Run, axis: str, thresholds: np.ndarray) -> np.ndarray:
    """Return where on an axis the run was first evaluated at or below each threshold, NaN where it never was.

    Args:
        run: the run.
        axis: key of ``AXES``.
        thresholds: nats per token, shape (n,).
    """
    x, nll, _ = evaluation_series(run, axis)
    if not len(nll):
        return np.full(len(thresholds), np.nan)
    below = nll[None, :] <= thresholds[:, None]
    return np.where(below.any(axis=1), x[below.argmax(axis=1)], np.nan)


def _reached_curve(run: Run, axis: str, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    reached = milestones(run, axis, thresholds)
    known = np.isfinite(reached)
    return -thresholds[known], reached[known]


def _margin(thresholds: np.ndarray) -> tuple[float, float]:
    step = float(thresholds[0] - thresholds[-1]) or 1.0
    return float(thresholds[-1]) - 0.1 * step, float(thresholds[0]) + 0.1 * step


def _best_note(group: SeedGroup) -> str:
    best = [
        run.best_evaluation.nll for run in group.runs if run.best_evaluation and run.best_evaluation.nll is not None
    ]
    sets = {run.headline_set for run in group.runs} - {None}
    of = f" of {', '.join(sorted(map(str, sets)))}" if sets else ""
    if best:
        return f"best {min(best):.4f}{of}"
    return "no evaluation has a loss" if any(run.evaluations for run in group.runs) else "not evaluated"


def _draw_nll(axes: Axes, drawing: Drawing) -> tuple[list, list[str]]:
    """Draw the evaluation nll of every group and the source; return what the legend needs."""
    for place, group in enumerate(drawing.groups):
        style = Style.of(place)
        if len(group.runs) > 1:
            draw_line(axes, group_curve([evaluation_series(run, drawing.x)[:2] for run in group.runs]), style)
            continue
        x, nll, errors = evaluation_series(group.runs[0], drawing.x)
        if len(x) > 60:
            draw_line(axes, Curve(x, nll, errors), style)
        elif len(x):
            axes.errorbar(
                x,
                nll,
                yerr=errors if errors.any() else None,
                color=style.colour,
                marker=style.marker,
                markersize=5,
                linestyle=style.line,
                linewidth=1.6,
                capsize=3,
            )
    handles, names = group_handles(drawing), group_names(drawing, bound_note)
    if axes.has_data():
        log_y_if_wide(axes)
        for source in sorted({run.source_nll for run in drawing.runs if run.source_nll is not None}):
            line = axes.axhline(source, color="0.25", linestyle=(0, (6, 4)), linewidth=1.2)
            handles.append(Line2D([], [], color=line.get_color(), linestyle=(0, (6, 4)), linewidth=1.2))
            names.append(label_text(f"source: {source:.4f} nats/token"))
    return handles, names
