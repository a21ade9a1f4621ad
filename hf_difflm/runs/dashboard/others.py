"""The panels of a dashboard that a log leaves empty, filled with what it has instead."""

from __future__ import annotations

from matplotlib.axes import Axes

from ..journal.run import Run
from ..plots.decimation import decimate
from ..plots.scalars import measured_scalars, other_scalars, scalar_series
from ..plots.style import COLOURS, label_text
from .panels import accuracy_name, finish_panel, legend

_POINTS, _FEW = 800, 60


class OtherPanels:
    """What is drawn in empty panels, one name a panel, in the order in which panels ask for one.

    First what another Trainer logs beside our quantities, of which one of ours has nothing; then what callbacks measured.

    Args:
        run: of any Trainer.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.names = other_scalars(run, drawn=(accuracy_name(run),))
        """What another Trainer logs and has not been drawn yet."""
        self._measured = measured_scalars(run)
        self._drawn = 0

    @property
    def left(self) -> int:
        """How many panels can be filled."""
        return len(self.names) + len(self._measured)

    def draw(self, axes: Axes) -> None:
        """Draw the next of the names, training as a line and evaluations as diamonds."""
        name = (self.names or self._measured).pop(0)
        colour = COLOURS[self._drawn % len(COLOURS)]
        self._drawn += 1
        evaluated = name.startswith("eval_")
        if not evaluated:
            x, y = scalar_series(self._run, name, "step")
            marker = "o" if len(y) <= _FEW else ""
            axes.plot(
                *decimate(x, y, _POINTS), color=colour, linewidth=1.6, marker=marker, markersize=4, label="training"
            )
        x, y = scalar_series(self._run, name if evaluated else f"eval_{name}", "step")
        if len(y):
            axes.plot(*decimate(x, y, _POINTS), "D", color="0.15", markersize=5, label="eval")
        finish_panel(axes, label_text(name), "", f"{name}: no finite value")
        legend(axes)
