"""Pictures of training: loss by step, epoch and smoothed, step times, and how busy the hardware was."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..derived.metrics import losses_by_epoch
from ..journal.quantities import STEP, quantity_in
from ..journal.run import Run
from .axes import step_series
from .decimation import decimate
from .series import (
    Curve,
    Drawing,
    NothingToDraw,
    draw_line,
    group_curve,
    group_handles,
    group_names,
    run_legend,
    smoothed,
    titled,
    x_axis,
)
from .style import Style, finish, label_text, legend, log_y_if_wide, new_figure, new_grid

_BINS = 40
_ONE_PANEL = 3


def draw_loss_per_step(drawing: Drawing) -> Figure:
    """The loss of every logged step; long runs keep the extremes of each stretch. From four runs on, a panel for each."""
    series = [step_series(run, "loss", drawing.x) for run in drawing.runs]
    drawing.need(any(len(y) for _, y in series), "no training loss was logged")
    if len(series) > _ONE_PANEL:
        return titled(_loss_panels(drawing, series), drawing)
    figure, (axes,) = new_figure(width=drawing.width)
    for place, (x, y) in enumerate(series):
        _draw_steps(axes, x, y, Style.of(place))
    log_y_if_wide(axes)
    finish(axes, f"Training loss of each {drawing.step_word}", x_axis(axes, drawing), drawing.loss_label)
    run_legend(figure, drawing)
    return titled(figure, drawing)


def _draw_steps(axes: Axes, x: np.ndarray, y: np.ndarray, style: Style) -> None:
    if len(y) <= 60:
        draw_line(axes, Curve(x, y), style)
    else:
        axes.plot(*decimate(x, y), color=style.colour, linewidth=0.8, alpha=0.85)


def _loss_panels(drawing: Drawing, series: list[tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One panel a run on common axes, the other runs in grey behind it: the noise of many runs hides them all."""
    figure, panels = new_grid(len(series), drawing.width)
    for place, axes in enumerate(panels):
        for other, (x, y) in enumerate(series):
            if other != place:
                axes.plot(*decimate(x, y, 400), color="0.85", linewidth=0.5, zorder=1)
        _draw_steps(axes, *series[place], Style.of(place))
    log_y_if_wide(panels[0])
    label = x_axis(panels[0], drawing)
    for place, (axes, name) in enumerate(zip(panels, drawing.names, strict=True)):
        finish(axes, label_text(name), "", "")
        axes.title.set_fontsize(9)
        if not len(series[place][1]):
            axes.text(0.5, 0.5, "no loss logged", ha="center", va="center", transform=axes.transAxes, color="0.3")
    figure.supxlabel(label, fontsize=11)
    figure.supylabel(f"training {drawing.loss_label}", fontsize=11)
    return figure


def draw_loss_smoothed(drawing: Drawing) -> Figure:
    """The moving mean of the loss over 100 steps; several seeds as mean and band."""
    figure, (axes,) = new_figure(width=drawing.width)
    curves = [group_curve([smoothed_loss(run, drawing.x) for run in group.runs]) for group in drawing.groups]
    drawing.need(any(len(curve.y) for curve in curves), "no training loss was logged")
    for place, curve in enumerate(curves):
        draw_line(axes, curve, Style.of(place))
    log_y_if_wide(axes)
    finish(axes, f"Training loss, mean of up to 100 {drawing.step_word}s", x_axis(axes, drawing), drawing.loss_label)
    legend(figure, group_handles(drawing), group_names(drawing))
    return titled(figure, drawing)


def draw_loss_per_epoch(drawing: Drawing) -> Figure:
    """The mean loss of each epoch, hollow where the epoch was not finished; several seeds as mean and band."""
    figure, (axes,) = new_figure(width=drawing.width)
    found = [[losses_by_epoch(run) for run in group.runs] for group in drawing.groups]
    if not any(len(epochs) for group in found for epochs, _ in group):
        raise NothingToDraw("no run says which epoch its steps belong to")
    hollow = False
    for place, (group, losses) in enumerate(zip(drawing.groups, found, strict=True)):
        style = Style.of(place)
        curve = group_curve([(epochs.astype(np.float64), means) for epochs, means in losses])
        draw_line(axes, curve, style)
        if len(curve.y) and not all(map(_last_epoch_is_finished, group.runs)):
            hollow = True
            axes.plot(
                curve.x[-1:], curve.y[-1:], style.marker, color=style.colour, markerfacecolor="white", markersize=7
            )
    log_y_if_wide(axes)
    finish(
        axes,
        "Mean training loss of each epoch",
        "epoch (hollow: unfinished)" if hollow else "epoch",
        drawing.loss_label,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    legend(figure, group_handles(drawing), group_names(drawing))
    return titled(figure, drawing)


def draw_step_time_histogram(drawing: Drawing) -> Figure:
    """How long the steps took, evaluation and saving apart; the slowest of all are counted in the last bar."""
    figure, (axes,) = new_figure(width=drawing.width)
    times = [run.known("time_ms")[:, 2] for run in drawing.runs]
    times = [values[values > 0] for values in times]
    known = [values for values in times if len(values)]
    if not known:
        raise NothingToDraw("no step time was logged")
    # Each run by itself: a fast one must not vanish among the outliers of a slow one.
    low, high = min(values.min() for values in known), max(np.quantile(values, 0.995) for values in known)
    wide = high / low > 30
    if high <= low * 1.001:
        low, high = low * 0.9, high * 1.1
    bins = np.geomspace(low, high, _BINS + 1) if wide else np.linspace(low, high, _BINS + 1)
    notes = []
    for place, values in enumerate(times):
        notes.append(f"median {np.median(values):.4g} ms" if len(values) else "not logged")
        if len(values):
            style = Style.of(place)
            shares = np.histogram(np.clip(values, low, high), bins)[0] * (100 / len(values))
            axes.stairs(shares, bins, color=style.colour, linestyle=style.line, linewidth=1.8)
            if len(known) <= 3:
                axes.stairs(shares, bins, color=style.colour, alpha=0.15, fill=True)
    if wide:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    slower = any((values > high).any() for values in known)
    note = "; the last bar: this and slower" if slower else ""
    finish(axes, "Time of a training step", f"time (ms), evaluation and saving apart{note}", "share of the steps (%)")
    axes.set_ylim(bottom=0)
    run_legend(figure, drawing, notes)
    return titled(figure, drawing)


def draw_mfu(drawing: Drawing) -> Figure:
    """Model FLOPs utilisation: what the model requires, in per cent of the dense peak of the hardware."""
    figure, (axes,) = new_figure(width=drawing.width)
    series = [step_series(run, "mfu", drawing.x) for run in drawing.runs]
    drawing.need(any(len(y) for _, y in series), "no run knows its MFU, which needs the peak FLOP/s of its device")
    for place, (run, (x, y)) in enumerate(zip(drawing.runs, series, strict=True)):
        if len(y) > 60 and len(series) <= _ONE_PANEL:
            axes.plot(*decimate(x, y), color=Style.of(place).colour, linewidth=0.7, alpha=0.3)
        draw_line(axes, Curve(*smoothed(x, y, _steps_per_row(run))), Style.of(place))
    ours = all(quantity_in("mfu", run.objective) == STEP["mfu"] for run in drawing.runs)
    label = "MFU (% of the dense peak)" if ours else "MFU"
    finish(axes, "Model FLOPs utilisation, mean of up to 100 steps", x_axis(axes, drawing), label)
    axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    run_legend(
        figure, drawing, [f"mean {y.mean():.3g}{' %' if ours else ''}" if len(y) else "unknown" for _, y in series]
    )
    return titled(figure, drawing)


def smoothed_loss(run: Run, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the moving mean of a run's loss over 100 steps, as (x, y)."""
    return smoothed(*step_series(run, "loss", axis), _steps_per_row(run))


def _last_epoch_is_finished(run: Run) -> bool:
    ends = run.column("epoch")
    ends = ends[np.isfinite(ends)]
    return not len(ends) or abs(ends[-1] - round(ends[-1])) < 0.01


def _steps_per_row(run: Run) -> float:
    steps = run.column("steps")
    return float(np.median(steps)) if len(steps) else 1.0
