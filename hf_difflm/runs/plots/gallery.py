"""Many scalars in one picture, a small panel each: what a log holds beside the quantities that have pictures of their own."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..journal.run import Run
from .decimation import decimate
from .scalars import measured_scalars, other_scalars, scalar_series
from .series import Drawing, run_legend, x_axis
from .style import Style, finish, label_text, new_grid

MOST_PANELS = 12
_POINTS, _FEW = 400, 30


def gallery_names(runs: Sequence[Run]) -> list[str]:
    """Return the scalars of a gallery: what another Trainer logs, then the telling ones of what callbacks have measured."""
    others = [name for run in runs for name in other_scalars(run)]
    return list(dict.fromkeys([*others, *(name for run in runs for name in measured_scalars(run))]))


def draw_gallery(drawing: Drawing, names: Sequence[str]) -> Figure:
    """The first :data:`MOST_PANELS` of the names: training as a line, the evaluations of the same name as hollow diamonds."""
    figure, panels = new_grid(min(len(names), MOST_PANELS), shared=False)
    for axes, name in zip(panels, names, strict=False):
        for place, run in enumerate(drawing.runs):
            _draw(axes, run, drawing.x, name, Style.of(place))
        label = x_axis(axes, drawing)
        finish(axes, label_text(name), label, "")
        axes.xaxis.label.set_fontsize(8)
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=9)
        axes.tick_params(labelsize=8)
    if len(drawing.runs) > 1:
        run_legend(figure, drawing)
    return figure


def _draw(axes: Axes, run: Run, x: str, name: str, style: Style) -> None:
    for each in dict.fromkeys((name, f"eval_{name}")):
        positions, values = scalar_series(run, each, x)
        if len(values):
            axes.plot(
                *decimate(positions, values, _POINTS),
                color=style.colour,
                linestyle=style.line if each == name else "",
                linewidth=1.2,
                marker="D" if each.startswith("eval_") else style.marker if len(values) <= _FEW else "",
                markersize=4,
                markerfacecolor="white" if each.startswith("eval_") else style.colour,
            )
