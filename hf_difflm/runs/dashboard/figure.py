"""The dashboard: one picture that shows at a glance how a training goes, drawn from its log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..derived.document import summarize
from ..journal.run import NOT_SAID, Run
from ..journal.tables import count, duration, with_error
from ..plots.axes import AXES
from ..plots.style import save
from ..reading.dashboard_names import SHOWN_SAMPLES
from .importance import Strip, draw_importance, strip_of
from .noise import draw_by_noise, draw_masking_rate, is_diffusion
from .others import OtherPanels
from .panels import (
    accuracy_series,
    draw_accuracy,
    draw_learning_rate,
    draw_loss,
    draw_loss_against_accuracy,
    draw_recent,
    draw_throughput,
)
from .samples import cut, draw_samples

_SIZE, _DPI = (16.0, 9.0), 120  # full HD, as a projector has
_LEFT, _WIDTH, _PITCH = 0.05, 0.24, 0.33  # of three panels side by side, as shares of the picture
_TOP_ROW, _MIDDLE_ROW, _BOTTOM_ROW = (0.66, 0.205), (0.355, 0.205), (0.065, 0.185)  # bottom and height
_SMALL = 0.148
_NAMED = 4  # of what has no room
_STRIP_WIDTH = 0.985 - _LEFT  # of the text below the panels


def draw_dashboard(run: Run, path: str | Path, display_samples: int = SHOWN_SAMPLES) -> Path:
    """Draw the dashboard of a run and return the path of the picture; its format follows the suffix.

    Panels: loss, accuracy, throughput; learning rate (and gradient norm), loss against accuracy, the last 500 steps; the
    last ``display_samples`` samples (0 to 10) and, where tokens are masked, quality by masking rate and the masking rate.
    A panel without data shows something else that the log has (:class:`~.others.OtherPanels`), or says what is missing.
    Where the log has the importance of a text's tokens the picture is higher, and the text stands below the panels. The
    same run gives the same bytes.

    Raises:
        UserError: the suffix is not that of a picture, or the file cannot be written.
    """
    width, height = _SIZE
    strip = strip_of(run, _STRIP_WIDTH * width)
    below = strip.height if strip else 0.0
    figure = Figure(figsize=(width, height + below), dpi=_DPI)
    FigureCanvasAgg(figure)
    place = _Place(figure, below)
    _draw_header(place, run)
    with np.errstate(over="ignore", invalid="ignore"):  # a loss may be any number
        others = OtherPanels(run)
        known = (True, len(accuracy_series(run)[1]), len(run.known("tokens_per_sec")))
        for column, draw in enumerate((draw_loss, draw_accuracy, draw_throughput)):
            axes = place.panel(_LEFT + column * _PITCH, _TOP_ROW, _WIDTH)
            if known[column] or not others.left:
                draw(axes, run)
            else:
                others.draw(axes)
        draw_learning_rate(place.panel(_LEFT, _MIDDLE_ROW, _WIDTH), run)
        if others.left and not known[1]:
            others.draw(place.panel(_LEFT + _PITCH, _MIDDLE_ROW, _WIDTH))
        else:
            scatter, bar = (
                place.panel(_LEFT + _PITCH + x, _MIDDLE_ROW, width) for x, width in ((0, 0.205), (0.212, 0.009))
            )
            draw_loss_against_accuracy(scatter, bar, run)
        draw_recent(place.panel(_LEFT + 2 * _PITCH, _MIDDLE_ROW, _WIDTH), run)
        table = _LEFT
        if is_diffusion(run):
            draw_by_noise(place.panel(_LEFT, _BOTTOM_ROW, _SMALL), run)
            draw_masking_rate(place.panel(_LEFT + 0.2, _BOTTOM_ROW, _SMALL), run)
            table = _LEFT + 0.375
        if others.left and not (run.samples and display_samples) and table == _LEFT:
            for column in range(min(3, others.left)):
                others.draw(place.panel(_LEFT + column * _PITCH, _BOTTOM_ROW, _WIDTH))
        elif display_samples:
            draw_samples(place.panel(table, (0.03, _BOTTOM_ROW[1] + 0.035), 0.985 - table), run, display_samples)
        _draw_left_out(place, others.names)
        for axes in figure.axes if run.step_word == "epoch" else ():
            axes.set_xlabel(axes.get_xlabel().replace(AXES["step"].label, AXES["epoch"].label))
        if strip:
            _draw_strip(figure, strip)
        return save(figure, Path(path))


class _Place:
    """Where things go in a picture that has ``below`` inches of something else under it; shares of what is above that."""

    def __init__(self, figure: Figure, below: float) -> None:
        self.figure, self._below = figure, below
        self._share = _SIZE[1] / (_SIZE[1] + below)

    def up(self, share: float) -> float:
        return 1.0 - (1.0 - share) * self._share if self._below else share

    def panel(self, left: float, row: tuple[float, float], width: float) -> Axes:
        # Places are given, not searched for: a layout engine would draw everything twice.
        return self.figure.add_axes((left, self.up(row[0]), width, row[1] * self._share))


def _draw_left_out(place: _Place, names: list[str]) -> None:
    """Say which scalars of the log had no room."""
    if names:
        more = f", {count(len(names) - _NAMED)} more" if len(names) > _NAMED else ""
        said = f"no room for {', '.join(cut(name) for name in names[:_NAMED])}{more} (plot --metric NAME)"
        place.figure.text(
            0.985, place.up(0.985), said, fontsize=11, va="top", ha="right", color="0.4", parse_math=False
        )


def _draw_strip(figure: Figure, strip: Strip) -> None:
    text = figure.add_axes((_LEFT, 0, _STRIP_WIDTH, strip.height / figure.get_figheight()))
    draw_importance(text, figure.add_axes((0, 0, 1, 1)), strip)


def up_to(run: Run, step: int) -> Run:
    """Return the run as its log was after this many optimiser steps; what came later is left out."""
    return Run(
        path=run.path,
        headers=run.headers,
        steps=run.steps.up_to(step),
        evaluations=[record for record in run.evaluations if record.iter <= step],
        checkpoints=[record for record in run.checkpoints if record.iter <= step],
        samples=[record for record in run.samples if record.iter <= step],
        measurements=[record for record in run.measurements if record.iter <= step],
        events=[event for event in run.events if event.iter is None or event.iter <= step],
        damaged_lines=run.damaged_lines,
        epoch_losses=run.epoch_losses,
        headline_set=run.headline_set,
    )


def header_facts(run: Run) -> list[str]:
    """Return what stands below the name: objective, status, how far, tokens, training time, best evaluation."""
    summary = summarize(run)
    best = run.best_evaluation
    facts = [
        cut(run.objective) if run.objective else "",
        "" if run.shown_status == NOT_SAID else run.death or run.status,
        _progress(run),
        f"{count(run.tokens_seen)} tokens" if run.tokens_seen is not None else "",
        f"{duration(summary['train_seconds'])} of training" if summary["train_seconds"] is not None else "",
    ]
    if best is not None:
        unit = f" {run.loss_unit}" if run.loss_unit else ""
        facts.append(f"best eval {with_error(best.nll, best.nll_stderr)}{unit} at step {count(best.iter)}")
    return [fact for fact in facts if fact]


def _draw_header(place: _Place, run: Run) -> None:
    name = cut(run.name, 90)
    place.figure.text(_LEFT, place.up(0.985), name, fontsize=20, weight="bold", va="top", parse_math=False)
    facts = "   ·   ".join(header_facts(run))
    place.figure.text(_LEFT, place.up(0.943), facts, fontsize=14, va="top", color="0.25", parse_math=False)


def _progress(run: Run) -> str:
    done = f"{run.step_word} {count(run.last_step)}"
    steps, epochs = _setting(run, "max_steps"), _setting(run, "num_train_epochs")
    if steps > 0:
        return f"{done} of {count(steps)}"
    epoch = run.column("epoch")
    if epochs > 0 and len(epoch) and np.isfinite(epoch[-1]):
        return f"{done}, epoch {epoch[-1]:.2f} of {epochs:g}"
    return done


def _setting(run: Run, name: str) -> float:
    """A number of the run's settings, 0 where there is none."""
    value = run.config.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else 0
