"""How every picture looks: colours, lines, ticks, legend, and how it is saved. No global state of pyplot."""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text
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
_NARROWEST = 2.0  # inches of a panel that stands beside others
WIDTHS = (1.5, 40.0)
"""Inches that a picture may be wide."""


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


def stacked(panels: int, width: float | None) -> bool:
    """Whether panels stand one below the other, since a picture of this width has no room for them side by side."""
    return width is not None and width / panels < _NARROWEST


def new_figure(panels: int = 1, width: float | None = None) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with this many panels side by side; in a narrow one of them below each other.

    Args:
        panels: how many.
        width: of the figure in inches, as a page has room for; by default that of a screen.
    """
    figure, rows = new_rows(1, panels, width)
    if width is None:
        figure.set_figheight(5.6)
    return figure, rows[0]


def new_rows(rows: int, panels: int, width: float | None = None) -> tuple[Figure, list[list[Axes]]]:
    """Return an empty figure with this many rows of panels; in a narrow one each panel has a row of its own."""
    columns = 1 if stacked(panels, width) else panels
    lines = rows * panels // columns
    if width is None:
        size = ({1: 9.0, 2: 12.8}.get(panels, 14.4), 4.6 * rows + 1.0)
    else:
        size = (width, _page_height(lines, width / columns))
    figure = _empty(size, 0.1, width)
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    return figure, [axes[row * panels : (row + 1) * panels] for row in range(rows)]


def new_grid(panels: int, width: float | None = None, shared: bool = True) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with this many small panels in rows, on common axes where they are ``shared``."""
    columns = min(4, math.ceil(math.sqrt(panels)))
    if width is not None:
        columns = max(1, min(columns, int(width / _NARROWEST)))
    rows = math.ceil(panels / columns)
    size = (3.4 * columns + 0.6, 2.3 * rows + 0.8) if width is None else (width, _page_height(rows, width / columns))
    figure = _empty(size, 0.06, width)
    grid = list(figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).flat)
    for axes in grid[panels:]:
        axes.set_axis_off()
    for axes in grid[max(panels - columns, 0) : panels]:
        axes.tick_params(labelbottom=True)  # also where the panel below is empty
    return figure, grid[:panels]


def _page_height(rows: int, width: float) -> float:
    """Inches of a figure whose panels are this wide, each with its labels, and with a legend below."""
    return rows * max(0.6 * width, 1.7) + 0.4


def _empty(size: tuple[float, float], padding: float, width: float | None) -> Figure:
    padding = padding if width is None else padding / 2
    figure = Figure(
        figsize=size,
        dpi=150 if width is None else 300,
        layout=ConstrainedLayoutEngine(w_pad=padding, h_pad=padding),
    )
    FigureCanvasAgg(figure)
    return figure


def fit_to_page(figure: Figure) -> None:
    """Make text and lines small enough for a figure of a page: axis labels of 8 points in a column, 11 from 9 inches on."""
    scale = min(1.0, max(0.7, figure.get_figwidth() / 9))
    for text in figure.findobj(Text):
        text.set_fontsize(float(text.get_fontsize()) * scale)
    for line in figure.findobj(Line2D):
        line.set_linewidth(line.get_linewidth() * scale)
        line.set_markersize(line.get_markersize() * scale)
    grid = figure.axes[0].get_gridspec()
    whole = 0.75 * 72 * figure.get_figwidth()
    room = whole / (grid.ncols if grid else 1)
    height = 0.5 * 72 * figure.get_figheight() / (grid.nrows if grid else 1)
    named = _titled_panels(figure)
    for axes in figure.axes:
        axes.tick_params(which="both", labelsize=10 * scale)  # ticks to come, too
        axes.set_xlabel(_broken(axes.get_xlabel(), room, 11 * scale))
        axes.set_ylabel(_broken(axes.get_ylabel(), height, 11 * scale))
    for axes in named:
        title = _broken(axes.get_title(loc="left"), room if len(named) > 1 else whole, 13 * scale)
        axes.set_title(title, loc="left", fontsize=13 * scale)


def without_titles(figure: Figure) -> None:
    """Take away what a caption says: the title above and a single one below it; panels that have one each keep theirs."""
    if figure.get_suptitle():
        figure.suptitle("")
    if len(named := _titled_panels(figure)) == 1:
        named[0].set_title("", loc="left")


def _titled_panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def _broken(text: str, points: float, size: float) -> str:
    """The text in lines of this many points; a letter takes about half its size."""
    return textwrap.fill(text, max(12, int(points / (0.54 * size)))) if text else text


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
            # Type 3, the default, is refused by the checks of many venues; 42 is TrueType.
            with rc_context({"pdf.fonttype": 42}):
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
