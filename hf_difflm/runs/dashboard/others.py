"""The panels of a dashboard that the log of another Trainer leaves empty, filled with what it logs instead."""

from __future__ import annotations

from matplotlib.axes import Axes

from ..journal.run import Run
from ..plots.decimation import decimate
from ..plots.scalars import other_scalars, scalar_series
from ..plots.style import COLOURS, label_text
from .panels import accuracy_name, finish_panel, legend

_POINTS, _FEW = 800, 60


class OtherPanels:
    """What another Trainer logs beside our quantities, one name a panel, in the order in which panels ask for one.

    Args:
        run: of one of ours there is nothing to show.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.names = other_scalars(run, drawn=(accuracy_name(run),))
        """What has not been drawn yet."""
        self._drawn = 0

    def draw(self, axes: Axes) -> None:
        """Draw the next of the names, training as a line and evaluations as diamonds."""
        name = self.names.pop(0)
        colour = COLOURS[self._drawn % len(COLOURS)]
        self._drawn += 1
        evaluated = name.startswith("eval_")
        rises = False
        if not evaluated:
            x, y = scalar_series(self._run, name, "step")
            rises = bool(len(y) and y[-1] > y[0])
            marker = "o" if len(y) <= _FEW else ""
            axes.plot(
                *decimate(x, y, _POINTS), color=colour, linewidth=1.6, marker=marker, markersize=4, label="training"
            )
        x, y = scalar_series(self._run, name if evaluated else f"eval_{name}", "step")
        if len(y):
            axes.plot(*decimate(x, y, _POINTS), "D", color="0.15", markersize=5, label="eval")
        finish_panel(axes, label_text(name), "", f"{name}: no finite value")
        legend(axes, "upper left" if rises else "upper right")
