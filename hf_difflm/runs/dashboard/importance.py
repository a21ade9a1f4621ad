"""The strip of the dashboard that shows how important each token of a text is."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import TextToPath

from ..journal.run import Run
from ..journal.tables import count
from .importance_map import ImportanceMap, importance_maps, scale_of
from .panels import TICK_SIZE, TITLE_SIZE

# Light enough for black letters on every shade (at least 8 to 1), and told apart by the colour-blind.
SHADES = LinearSegmentedColormap.from_list("importance", ["#ffffff", "#fde3c8", "#f58f3f"])
MOST_LINES = 6
_SIZES = (16, 15, 14, 13, 12)  # of the letters in points: the largest with which the text fits
_FONT = FontProperties(family="DejaVu Sans Mono")
_LEADING = 1.75  # from line to line, as a share of the size of the letters
_ABOVE, _BELOW = 0.5, 0.16  # inches: title and legend above the lines, air below
_LEGEND = (2.4, 0.13)  # inches
_BOX = "□"
_FORWARD = frozenset({"L", "EN", "ES", "ET", "CS", "WS", "ON"})  # bidirectional classes written from left to right


@dataclass(frozen=True)
class Strip:
    """How a map is laid out in lines.

    Attributes:
        letters: the text, one letter a column.
        values: the importance of each letter's token, NaN where it is not known.
        scale: lowest and highest importance of the shades.
        size: of the letters, in points.
        columns: letters of a line.
        lines: at most six.
        step: optimiser steps done.
    """

    letters: str
    values: list[float]
    scale: tuple[float, float]
    size: float
    columns: int
    lines: int
    step: int

    @property
    def pitch(self) -> float:
        """Inches from line to line."""
        return self.size * _LEADING / 72

    @property
    def height(self) -> float:
        """Inches of all of it, title included."""
        return _ABOVE + self.lines * self.pitch + _BELOW


def strip_of(run: Run, width: float) -> Strip | None:
    """Return the newest importance map of a run, laid out in lines of ``width`` inches; None where there is none."""
    maps = importance_maps(run)
    return lay_out(maps[-1], width) if maps else None


def lay_out(found: ImportanceMap, width: float) -> Strip:
    """Return a map in at most six lines; what does not fit is left out, and an ellipsis says so."""
    letters, values = "", list[float]()
    for token, value in zip(found.shown, found.values, strict=True):
        letters += "".join(letter if _has_a_column(letter) else _BOX for letter in token)
        values += [math.nan if value is None else value] * len(token)
    for size in _SIZES:
        columns = max(int(width * 72 / (size * _advance())), 1)
        if len(letters) <= columns * MOST_LINES:
            break
    else:
        kept = columns * MOST_LINES - 1
        letters, values = letters[:kept] + "…", [*values[:kept], math.nan]
    return Strip(letters, values, scale_of([found]), size, columns, max(-(-len(letters) // columns), 1), found.step)


def draw_importance(axes: Axes, bar: Axes, strip: Strip) -> None:
    """The text, each token on the shade of its importance, and the scale in ``bar``, which is moved above the text.

    A letter that the font lacks, one that is wider than a column and one that is written from right to left is a box.
    """
    box = axes.get_position()
    extent, dots = axes.get_window_extent(), axes.figure.dpi
    width, height = extent.width / dots, extent.height / dots
    shades = Normalize(*strip.scale)
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(-height, 0)  # inches, from the top
    axes.text(
        0,
        -0.1,
        f"Importance of each token of an evaluation text, step {count(strip.step)}",
        fontsize=TITLE_SIZE,
        va="top",
    )
    for line in range(strip.lines):
        part = slice(line * strip.columns, (line + 1) * strip.columns)
        _draw_line(axes, strip.letters[part], strip.values[part], strip, -_ABOVE - line * strip.pitch, shades)
    _draw_legend(bar, shades, (box.x1, box.y1), (width / box.width, height / box.height))


def _draw_line(axes: Axes, letters: str, values: list[float], strip: Strip, top: float, shades: Normalize) -> None:
    """One line of cells, and the letters above them."""
    advance = strip.size * _advance() / 72
    low, high = top - 0.93 * strip.pitch, top
    lefts = advance * np.arange(len(letters))
    known = np.isfinite(values)
    corners = [[(x, low), (x, high), (x + advance, high), (x + advance, low)] for x in lefts[known]]
    if corners:
        colours = SHADES(shades(np.asarray(values)[known]))
        # Edges of the same colour: else a hair of paper shows between two cells.
        axes.add_collection(PolyCollection(corners, facecolors=colours, edgecolors=colours, linewidths=0.4))
    # Outlines and not text: the renderer would round the width of each letter to whole dots, and leave its cell.
    vertices, codes = TextToPath().get_text_path(_FONT, letters, ismath=False)
    if len(vertices):
        scale = strip.size / TextToPath.FONT_SCALE / 72
        baseline = low + 0.30 * strip.pitch
        outline = Path(np.asarray(vertices) * scale + (0.0, baseline), codes)
        axes.add_patch(PathPatch(outline, facecolor="black", linewidth=0))


def _draw_legend(bar: Axes, shades: Normalize, corner: tuple[float, float], picture: tuple[float, float]) -> None:
    """The scale, to the right of the title: ``corner`` is the strip's upper right one, as shares of the picture."""
    width, height = (inches / whole for inches, whole in zip(_LEGEND, picture, strict=True))
    bar.set_position((corner[0] - width - 0.035, corner[1] - 0.1 / picture[1] - 1.45 * height, width, height))
    shade = np.linspace(shades.vmin or 0.0, shades.vmax or 1.0, 64)[None]
    bar.imshow(SHADES(shades(shade)), aspect="auto", extent=(0, 1, 0, 1))
    bar.set_xticks([])
    bar.set_yticks([])
    place: dict[str, Any] = {"va": "center", "fontsize": TICK_SIZE, "transform": bar.transAxes}
    bar.text(-0.02, 0.5, f"importance  {shades.vmin:.1f}", ha="right", **place)
    bar.text(1.02, 0.5, f"{shades.vmax:.1f}", ha="left", **place)


def _has_a_column(letter: str) -> bool:
    """Whether the font has the letter and writes it in one column, from left to right."""
    return (
        unicodedata.bidirectional(letter) in _FORWARD
        and not unicodedata.combining(letter)
        and bool(get_font(findfont(_FONT)).get_char_index(ord(letter)))
    )


@cache
def _advance() -> float:
    """Width of a letter as a share of its size."""
    font = get_font(findfont(_FONT))
    font.set_size(TextToPath.FONT_SCALE, 72)
    glyph = font.load_char(ord("M"))
    return float(glyph.linearHoriAdvance) / 65536 / TextToPath.FONT_SCALE
