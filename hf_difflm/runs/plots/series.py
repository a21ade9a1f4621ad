"""What the kinds of pictures share: the runs to draw, curves of single runs, and mean and band of several seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..comparing.seeds import SeedGroup
from ..journal.run import Run, common_loss_unit
from .axes import AXES
from .decimation import decimate, moving_mean, smoothing_window
from .style import Style, label_text, legend, scale_x

_FEW_POINTS = 60  # marked one by one
_BOUND_NOTES = {"nelbo": "upper bound", "exact": "exact"}


class NothingToDraw(Exception):
    """A kind of picture has nothing to show; the message says why."""


@dataclass(frozen=True)
class Drawing:
    """The runs of a picture.

    Args:
        runs: in the order given.
        names: a distinct one for each.
        groups: the same runs by configuration; one of several runs differs in the seed alone.
        title: stands above the picture; may be empty.
        x: key of ``AXES``.
        width: of the picture in inches; None: that of a screen.
    """

    runs: list[Run]
    names: list[str]
    groups: list[SeedGroup]
    title: str
    x: str
    width: float | None = None

    @property
    def loss_label(self) -> str:
        """What stands beside the losses, with the unit that all of them have."""
        labels = {run.training_loss_label for run in self.runs}
        if len(labels) == 1:
            return labels.pop()
        weighted = [name for run, name in zip(self.runs, self.names, strict=True) if run.minimises_no_bound]
        return f"loss (of {', '.join(weighted)} a weighted one)" if 0 < len(weighted) <= _NAMED else "loss"

    @property
    def nll_label(self) -> str:
        """The same for what evaluations are ranked by."""
        unit = common_loss_unit(self.runs)
        return f"nll ({unit})" if unit else "loss"

    @property
    def step_word(self) -> str:
        """What the rows of all runs are: steps, or epochs where the logs count no steps."""
        return "epoch" if all(run.step_word == "epoch" for run in self.runs) else "step"

    def need(self, known: bool, what: str) -> None:
        """Stop with :class:`NothingToDraw` where nothing is known."""
        if not known:
            raise NothingToDraw(what if self.x == "step" else f"{what}, or none with its {AXES[self.x].label}")


_NAMED = 2  # runs that a label has room for


@dataclass(frozen=True)
class Curve:
    """A line of a picture, and the band of one standard error around it; each of shape (n,)."""

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray | None = None
    runs: int = 1


def group_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> Curve:
    """Return the mean of several curves where all of them are known, with its standard error; of one, itself."""
    known = [(x, y) for x, y in curves if len(y)]
    if not known:
        return Curve(np.empty(0), np.empty(0), runs=0)
    if len(known) == 1:
        return Curve(*known[0])
    start, stop = max(x[0] for x, _ in known), min(x[-1] for x, _ in known)
    x = known[0][0]
    x = x[(x >= start) & (x <= stop)]
    values = np.stack([np.interp(x, other, y) for other, y in known])
    if not len(x):
        return Curve(np.empty(0), np.empty(0), runs=0)
    return Curve(x, values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(known)), runs=len(known))


def smoothed(x: np.ndarray, y: np.ndarray, steps_per_row: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return the moving mean over 100 steps, over fewer in a short run."""
    window = min(smoothing_window(len(y)), max(1, round(100 / steps_per_row)))
    return x, moving_mean(y, window) if window > 1 else y


def draw_line(axes: Axes, curve: Curve, style: Style, width: float = 1.8) -> None:
    """Draw a curve with its band, decimated, marked in a few places: every point where they are few."""
    x, y = decimate(curve.x, curve.y)
    axes.plot(
        x,
        y,
        color=style.colour,
        linestyle=style.line,
        linewidth=width,
        marker=style.marker,
        markersize=4.5,
        # On a long line a few markers, so that it can be told from others without its colour.
        markevery=1 if len(y) <= _FEW_POINTS else (len(y) // 20, len(y) // 8),
    )
    if curve.error is not None:
        x, low = decimate(curve.x, curve.y - curve.error)
        high = np.interp(x, *decimate(curve.x, curve.y + curve.error))
        axes.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)


def group_names(drawing: Drawing, note: Callable[[SeedGroup], str] | None = None) -> list[str]:
    """Return what the legend calls each group: name, what ``note`` adds, and the number of seeds."""
    names = []
    for group in drawing.groups:
        notes = [note(group)] if note is not None and note(group) else []
        if len(group.runs) > 1:
            notes.append(f"mean ± se, n = {len(group.runs)} seeds")
        names.append(label_text(group.label) + (f" ({', '.join(notes)})" if notes else ""))
    return names


def bound_note(group: SeedGroup) -> str:
    """Return whether the nll of a group is exact or an upper bound, as the legend says it."""
    bound = group.runs[0].bound or ""
    return _BOUND_NOTES.get(bound, label_text(bound))


def group_handles(drawing: Drawing) -> list[Artist]:
    """Return what stands before the names of the groups in the legend."""
    return [_handle(Style.of(place)) for place in range(len(drawing.groups))]


def run_legend(figure: Figure, drawing: Drawing, notes: Sequence[str] | None = None) -> None:
    """Put the name of every run below the picture, with a note for each."""
    notes = notes or [""] * len(drawing.runs)
    names = [label_text(name) + (f" ({note})" if note else "") for name, note in zip(drawing.names, notes, strict=True)]
    legend(figure, [_handle(Style.of(place)) for place in range(len(names))], names)


def titled(figure: Figure, drawing: Drawing) -> Figure:
    """Put the title of the drawing above the picture."""
    if drawing.title:
        figure.suptitle(label_text(drawing.title), fontsize=14)
    return figure


def x_axis(axes: Axes, drawing: Drawing) -> str:
    """Scale the horizontal axis and return its label."""
    return scale_x(axes, drawing.x)


def _handle(style: Style) -> Artist:
    return Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker, markersize=6, linewidth=2)
