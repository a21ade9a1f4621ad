"""The picture between autoregressive and masked diffusion: nll over the size of the diffusion blocks."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from .series import Drawing, NothingToDraw, titled
from .size_points import KINDS, size_points
from .style import Style, finish, legend, new_figure


def draw_block_size(drawing: Drawing) -> Figure:
    """The nll of each configuration's best evaluation over its block size, with one standard error.

    Hollow: a bound. The error of several seeds is over them, of one run that of its evaluation's noise.
    """
    points = size_points(drawing.groups)
    if len({size for size, *_ in points}) < 2:
        raise NothingToDraw("nll over the size of diffusion blocks needs evaluations at two sizes")
    figure, (axes,) = new_figure(width=drawing.width)
    axes.plot([size for size, *_ in points], [nll for _, nll, *_ in points], color="0.75", linewidth=1.2, zorder=1)
    handles: dict[str, Line2D] = {}
    for point in points:
        size, nll, error, run = point
        style = Style.of(list(KINDS).index(str(run.objective)))
        filled = style.colour if run.bound == "exact" else "white"
        look: dict[str, Any] = {
            "color": style.colour,
            "marker": style.marker,
            "markerfacecolor": filled,
            "markersize": 8,
        }
        axes.errorbar([size], [nll], yerr=None if error is None else [error], capsize=3, linestyle="none", **look)
        handles[point.kind] = Line2D([], [], linestyle="none", **look)
    axes.set_xscale("log", base=2)
    sizes = sorted({size for size, *_ in points})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    finish(axes, "Between autoregressive and masked diffusion", "tokens of a diffusion block", drawing.nll_label)
    legend(figure, list(handles.values()), list(handles))
    return titled(figure, drawing)
