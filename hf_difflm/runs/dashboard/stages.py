"""The stages of a curriculum on a curve over the steps of a run."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ..journal.run import Run
from .curriculum_stages import stage_starts


def mark_stages(axes: Axes, run: Run, text_size: float) -> None:
    """Draw a line where a stage of the curriculum begins, and its name in a margin below the curve.

    ``text_size`` is that of the names, in points. A run without a curriculum leaves the panel as it is.
    """
    stages = stage_starts(run) if axes.has_data() else []
    if not stages:
        return
    left, right = axes.get_xlim()
    panel, dots = axes.get_window_extent(), text_size * axes.figure.dpi / 72
    letter, line = 0.65 * dots / panel.width, 1.35 * dots / panel.height
    ends: list[float] = []  # of the names in each row: stages may begin close together
    for place, stage in enumerate(stages):
        x = (stage.step - left) / (right - left)
        width = letter * (len(stage.name) + 1)
        begin = min(x, 1.0 - width)
        row = next((row for row, end in enumerate(ends) if end <= begin), len(ends))
        ends[row : row + 1] = [begin + width]
        axes.text(
            begin + 0.4 * letter,
            (row + 0.25) * line,
            stage.name,
            fontsize=text_size,
            transform=axes.transAxes,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
        if place:
            # Not axvline: it asks where the curve lies, which a loss of 1e308 has no answer to.
            line_at = Line2D([stage.step] * 2, [0, 1], color="0.35", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
            line_at.set_transform(axes.get_xaxis_transform())
            axes.add_artist(line_at)
    _make_room_below(axes, (len(ends) + 0.25) * line)


def _make_room_below(axes: Axes, share: float) -> None:
    """Move the lower end of the vertical axis so that this share of the panel stays free of curves."""
    transform = axes.yaxis.get_transform()
    low, high = transform.transform(axes.get_ylim())
    bottom = float(transform.inverted().transform(low - (high - low) * share / (1 - share)))
    if math.isfinite(bottom) and (bottom > 0 or axes.get_yscale() == "linear"):  # losses may be any numbers
        axes.set_ylim(bottom=bottom)
