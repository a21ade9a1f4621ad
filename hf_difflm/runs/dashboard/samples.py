"""The table of the last samples on the dashboard: what the model was given, what it wrote, and how good that is."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from ..derived.sample_groups import blank_said, mode_of
from ..journal.run import Run
from ..journal.schema import SampleRecord
from ..journal.tables import count as whole
from ..journal.tables import number, printable
from ..plots.style import COLOURS
from ..reading.dashboard_names import SHOWN_SAMPLES
from .panels import TITLE_SIZE, say

CHARACTERS = 40
_TEXT_SIZE = 11
_LOOKED_AT = 400  # of a text of any length; escapes and wide letters only make it shorter
# What is told of a sample, in this order, where it is known: perplexity never without the entropy before it.
_QUALITIES = (
    ("mode", "mode"),
    ("accuracy", "accuracy"),
    ("distinct_2", "dist-2"),
    ("repeated_4", "rep-4"),
    ("repetition", "repeats"),
    ("unigram_entropy", "entropy"),
    ("entropy", "entropy"),
    ("reference_perplexity", "perplexity"),
)
_HEADER, _STRIPE = COLOURS[2], "#eef6f3"


def draw_samples(axes: Axes, run: Run, count: int = SHOWN_SAMPLES) -> None:
    """So many samples, see :func:`chosen`: step, prompt and text cut to what fits, and the qualities that were measured."""
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title("Samples", loc="left", fontsize=TITLE_SIZE, y=1.0)
    samples = chosen(run.samples, count)
    if not samples:
        say(axes, "no sample yet")
        return
    headings, rows = samples_table(samples)
    edges = _edges(headings, rows, axes.get_position().width)
    height = 1 / (max(count, SHOWN_SAMPLES) + 1)
    for line, cells in enumerate([headings, *rows]):
        bottom = 1 - (line + 1) * height
        if line == 0 or line % 2 == 0:
            colour = _STRIPE if line else _HEADER
            axes.add_patch(Rectangle((0, bottom), 1, height, facecolor=colour, edgecolor="none"))
        for column, cell in enumerate(cells):
            left, right = edges[column], edges[column + 1]
            number_like = column == 0 or column > 2
            text = axes.text(
                right - 0.006 if number_like else left + 0.006,
                bottom + height / 2,
                cell,
                ha="right" if number_like else "left",
                va="center",
                fontsize=_TEXT_SIZE,
                color="black" if line else "white",
                weight="normal" if line else "bold",
                parse_math=False,
                clip_on=True,
            )
            # Wide letters may take more room than forty common ones.
            text.set_clip_path(Rectangle((left, bottom), right - left, height, transform=axes.transData))
            _shorten(
                text, axes.transData.transform((right - 0.006, 0))[0] - axes.transData.transform((left + 0.006, 0))[0]
            )


def chosen(samples: Sequence[SampleRecord], count: int = SHOWN_SAMPLES) -> Sequence[SampleRecord]:
    """Return the last that say something: of the drawn ones if there are, since greedy texts repeat themselves."""
    said = [sample for sample in samples if cut(sample.text)]
    drawn = [sample for sample in said if mode_of(sample) != "greedy"]
    return (drawn or said or samples)[-count:]


def _shorten(text: Text, pixels: float) -> None:
    """Cut a text to a width, so that it is seen that something was cut."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        while (width := text.get_window_extent().width) > pixels and len(text.get_text()) > 1:
            letters = text.get_text().removesuffix("…")
            kept = min(int(len(letters) * pixels / width), len(letters) - 1)
            text.set_text(letters[: max(kept, 0)].rstrip() + "…")


def samples_table(samples: Sequence[SampleRecord]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and one row of cells a sample, ready to be drawn: no control characters, one line, cut."""
    known = [
        (key, heading) for key, heading in _QUALITIES if any(sample.extra.get(key) is not None for sample in samples)
    ]
    known = [pair for place, pair in enumerate(known) if pair[1] not in {heading for _, heading in known[:place]}][:4]
    rows = [
        [
            whole(sample.iter),
            cut(sample.prompt),
            blank_said(sample.text) or cut(sample.text),
            *(_quality(sample.extra.get(key)) for key, _ in known),
        ]
        for sample in samples
    ]
    return ["step", "prompt", "text", *(heading for _, heading in known)], rows


def cut(text: str, columns: int = CHARACTERS) -> str:
    """Return text on one line, without control characters, at most so many columns wide; wide letters take two."""
    line = " ".join(printable(str(text)[:_LOOKED_AT]).split())
    width = 0
    for place, letter in enumerate(line):
        width += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if width > columns or (width == columns and len(line) > place + 1):
            return line[:place] + "…"
    return line if len(str(text)) <= _LOOKED_AT else line + "…"


def _quality(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value, 2)
    return "-" if value is None else cut(value, 12)


def _edges(headings: list[str], rows: list[list[str]], width: float) -> list[float]:
    """Where the columns begin and end, from 0 to 1; ``width`` is that of the table as a share of the picture.

    Numbers get what they need, prompt and text share the rest by their lengths.
    """
    letters = [max(len(cells[column]) for cells in (headings, *rows)) for column in range(len(headings))]
    bold = [len(heading) for heading in headings]  # letters that are wider
    widths = [(max(0.0058 * n, 0.0072 * b) + 0.012) / width for n, b in zip(letters, bold, strict=True)]
    rest = max(1 - sum(widths) + widths[1] + widths[2], 0.3)
    share = min(max(widths[1] / (widths[1] + widths[2]), 0.2), 0.5)
    widths[1], widths[2] = share * rest, (1 - share) * rest
    return [0.0, *(sum(widths[: place + 1]) for place in range(len(widths)))]
