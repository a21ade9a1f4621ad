"""How every picture looks: colours, lines, ticks, legend, and how it is saved. No global state of pyplot."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from ...errors import UserError
from ..journal.atomic_files import replacing
from ..journal.tables import printable
from .axes import AXES

if TYPE_CHECKING:
    from matplotlib.typing import LineStyleType

FORMATS = ("png", "svg", "pdf")
# Okabe and Ito's colours, told apart by the colour-blind; black and yellow left out: axes and paper have those.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
LINES: tuple[LineStyleType, ...] = ("-", "--", ":", "-.")
_LONGEST_NAME = 44


@dataclass(frozen=True)
class Style:
    """Colour, marker and line of one run or group; the line changes when the colours have been used up."""

    colour: str
    marker: str
    line: LineStyleType

    @classmethod
    def of(cls, place: int) -> Style:
        """Return the style of the run at this place."""
        size = len(COLOURS)
        return cls(COLOURS[place % size], MARKERS[place % len(MARKERS)], LINES[place // size % len(LINES)])


def new_figure(panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with this many panels side by side."""
    width = {1: 9.0, 2: 12.8}.get(panels, 14.4)
    figure = Figure(figsize=(width, 5.6), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(1, panels)))


def new_rows(rows: int, panels: int) -> tuple[Figure, list[list[Axes]]]:
    """Return an empty figure with this many rows of panels."""
    size = ({1: 9.0, 2: 12.8}.get(panels, 14.4), 4.6 * rows + 1.0)
    figure = Figure(figsize=size, dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    FigureCanvasAgg(figure)
    return figure, [list(row) for row in figure.subplots(rows, panels, squeeze=False)]


def new_grid(panels: int) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with this many small panels on common axes, in rows."""
    columns = min(4, math.ceil(math.sqrt(panels)))
    rows = math.ceil(panels / columns)
    size = (3.4 * columns + 0.6, 2.3 * rows + 0.8)
    figure = Figure(figsize=size, dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in grid[panels:]:
        axes.set_axis_off()
    for axes in grid[max(panels - columns, 0) : panels]:
        axes.tick_params(labelbottom=True)  # also where the panel below is empty
    return figure, grid[:panels]


def save(figure: Figure, path: Path) -> Path:
    """Write the picture in one step; its format follows the suffix.

    Raises:
        UserError: the suffix is not that of a picture, or the file cannot be written.
    """
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise UserError(f"{str(path)!r} has no suffix of a picture; end it in .png, .svg or .pdf")
    try:
        with replacing(path) as temporary, warnings.catch_warnings():
            # A name may hold letters that the font lacks; they become boxes.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            figure.savefig(temporary, **_quickly(path))
    except OSError as error:
        raise UserError(
            f"the picture {str(path)!r} cannot be written ({error.strerror}); name another place"
        ) from error
    return path


def _quickly(path: Path) -> dict[str, Any]:
    """Pressing a PNG hard takes a fifth of the time of a picture, for a tenth of its bytes."""
    return {"pil_kwargs": {"compress_level": 1}} if path.suffix.lower() == ".png" else {}


def label_text(text: str) -> str:
    """Return a name as matplotlib must be given it: short, on one line, and without its mathematics and hiding."""
    text = " ".join(printable(text).split())
    if len(text) > _LONGEST_NAME:
        half = (_LONGEST_NAME - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # a leading underscore would hide it from the legend


def finish(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Titles, units, grid; a sentence where there is nothing to see."""
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel(x_label, fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.has_data():
        axes.text(0.5, 0.5, "nothing logged yet", ha="center", va="center", transform=axes.transAxes, color="0.4")
        axes.set_xticks([])
        axes.set_yticks([])


def scale_x(axes: Axes, axis: str) -> str:
    """Give the horizontal axis few, round ticks in a unit that suits its length, and return its label."""
    label = AXES[axis].label
    if not axes.has_data():
        return label
    longest = axes.dataLim.x1
    whole = axis in ("step", "tokens")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1))
    if axis == "time":
        unit, seconds = next(pair for pair in _TIME_UNITS if longest >= 2 * pair[1] or pair[1] == 1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / seconds:g}")
        # Ticks are round in the unit that is shown, not in seconds.
        axes.xaxis.set_major_locator(_Scaled(seconds))
        return f"training time ({unit})"
    if longest >= 20_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    return label


def log_y_if_wide(axes: Axes) -> None:
    """Show values over more than two decades, such as a loss that diverges, on a logarithmic axis."""
    low, high = axes.dataLim.y0, axes.dataLim.y1
    if 0 < low <= high < math.inf and high / low > 100:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Put the names below the panels, in as many columns as their lengths allow."""
    if not handles:
        return
    longest = max(map(len, names))
    fitting = max(1, int(figure.get_figwidth() * 12 / (longest + 7)))
    columns = min(len(names), fitting, 4)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)


_TIME_UNITS = (("days", 86_400), ("hours", 3600), ("minutes", 60), ("s", 1))


class _Scaled(MaxNLocator):
    """Ticks that are round numbers of a unit which is this many times that of the data."""

    def __init__(self, unit: float) -> None:
        super().__init__(nbins=7, steps=[1, 2, 5, 10])
        self._unit = unit

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        return [tick * self._unit for tick in super().tick_values(vmin / self._unit, vmax / self._unit)]
