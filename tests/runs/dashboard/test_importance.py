"""The text with its importance below the panels, and the curriculum's stages on the loss."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from made_runs import make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from PIL import Image

from hf_difflm.runs.dashboard import panels as panels
from hf_difflm.runs.dashboard.figure import draw_dashboard, up_to
from hf_difflm.runs.dashboard.importance import MOST_LINES, SHADES, draw_importance, lay_out, strip_of
from hf_difflm.runs.dashboard.importance_map import ImportanceMap, importance_record

WIDTH = 15.0
HOSTILE = [
    "$x^2$",
    " \\frac{1}{0",
    "<script>",
    "\x1b[31m",
    "\ud800",
    "\u202e",
    "日本",
    "שלום",
    "e\u0301",
    "🎉",
    "\n",
    "",
]


def adaptive_run(tokens, values, steps=60, bounds=(20, 40), **columns):
    stage = 1.0 + sum(np.arange(steps) >= bound for bound in bounds)
    run = make_run("adaptive", steps, objective="atat", columns={"curriculum_stage": stage, **columns})
    run.measurements.append(importance_record(steps, tokens, values))
    return run


def drawn_map(found):
    """The strip alone: its layout, its cells and its legend."""
    strip = lay_out(found, WIDTH)
    figure = Figure(figsize=(WIDTH, strip.height))
    FigureCanvasAgg(figure)
    axes, bar = figure.add_axes((0, 0, 1, 1)), figure.add_axes((0, 0, 1, 1))
    draw_importance(axes, bar, strip)
    return strip, axes, bar


def loss_panel(run):
    figure = Figure(figsize=(16, 9))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.05, 0.66, 0.24, 0.205))
    panels.draw_loss(axes, run)
    return axes


def test_every_letter_stands_on_the_shade_of_its_token():
    tokens, values = ["The", " ", "cat", "\n", "sat"], [0.1, 0.3, 0.5, None, 0.9]
    strip, axes, bar = drawn_map(ImportanceMap(3, tuple(tokens), tuple(values)))
    assert strip.letters == "The cat↵sat"
    (cells,) = (one for one in axes.collections if isinstance(one, PolyCollection))
    expected = [
        SHADES((value - 0.1) / 0.8) for token, value in zip(tokens, values, strict=True) if value for _ in token
    ]
    assert cells.get_facecolors() == pytest.approx(np.array(expected))
    lefts = [path.vertices[:, 0].min() for path in cells.get_paths()]
    (letters,) = (one for one in axes.patches if isinstance(one, PathPatch))
    advance = lefts[1] - lefts[0]
    assert lefts == pytest.approx([advance * place for place in range(len(strip.letters)) if place != 7])
    assert letters.get_path().vertices[:, 0].max() == pytest.approx(advance * len(strip.letters), abs=advance / 4)
    assert [text.get_text() for text in bar.texts] == ["importance  0.1", "0.9"]


def test_black_letters_can_be_read_on_every_shade():
    def luminance(colour):
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    assert min((luminance(SHADES(share)) + 0.05) / 0.05 for share in np.linspace(0, 1, 50)) > 7  # WCAG AAA


@pytest.mark.parametrize("letters", [1, 100, 130, 500, 800, 5000])
def test_a_text_of_any_length_takes_at_most_six_lines(letters):
    strip, axes, _ = drawn_map(ImportanceMap(1, ("x",) * letters, (0.5,) * letters))
    assert 1 <= strip.lines <= MOST_LINES
    assert len(strip.letters) <= strip.lines * strip.columns
    assert strip.letters.endswith("…") == (len(strip.letters) < letters)
    right = max(patch.get_path().vertices[:, 0].max() for patch in axes.patches)
    assert right <= WIDTH


def test_the_picture_has_the_newest_text_below_the_panels(tmp_path):
    run = adaptive_run(list("a text"), np.linspace(0.2, 0.7, 6))
    run.measurements.insert(0, importance_record(20, list("a text"), [0.5] * 6))
    assert strip_of(run, WIDTH).step == 60
    assert strip_of(up_to(run, 59), WIDTH).step == 20
    assert strip_of(up_to(run, 19), WIDTH) is None
    without = Image.open(draw_dashboard(up_to(run, 19), tmp_path / "without.png"))
    with_text = Image.open(draw_dashboard(run, tmp_path / "with.png"))
    assert without.size == (1920, 1080)
    assert with_text.size[0] == 1920
    assert 1080 + 80 < with_text.size[1] < 1080 + 360
    again = Image.open(draw_dashboard(run, tmp_path / "again.png"))
    assert again.tobytes() == with_text.tobytes()


def test_hostile_tokens_harm_no_picture(tmp_path):
    run = adaptive_run(HOSTILE * 9, [0.5] * len(HOSTILE) * 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in ("png", "svg", "pdf"):
            draw_dashboard(run, tmp_path / f"picture.{suffix}")
    letters = strip_of(run, WIDTH).letters
    assert letters.isprintable()
    assert "$x^2$ \\frac{1}{0<script>" in letters
    assert "□□□□□□" in letters  # letters without a column of their own: of Japanese and Hebrew


def test_the_stages_are_marked_where_they_begin_and_have_their_names():
    axes = loss_panel(adaptive_run(["a"], [0.5]))
    marks = [
        line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 2 and line.get_linestyle() != "-"
    ]
    assert marks == [21, 41]
    assert [text.get_text() for text in axes.texts] == ["easy", "medium", "hard"]
    lowest = min(line.get_ydata().min() for line in axes.get_lines() if len(line.get_ydata()) > 2)
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    names = [text.get_window_extent(renderer) for text in axes.texts]
    assert max(name.y1 for name in names) < axes.transData.transform((0, lowest))[1]  # below the curve
    assert all(name.x1 < right.x0 for name, right in itertools.pairwise(names))


@pytest.mark.parametrize("bounds", [(2, 4), (56, 58), (30, 31), (1, 1), (0, 0)])
def test_names_of_stages_that_begin_close_together_do_not_cover_each_other(bounds):
    axes = loss_panel(adaptive_run(["a"], [0.5], bounds=bounds))
    renderer = axes.figure.canvas.get_renderer()
    names = [text.get_window_extent(renderer) for text in axes.texts]
    assert names
    assert not any(one.overlaps(other) for place, one in enumerate(names) for other in names[place + 1 :])
    assert all(name.x1 <= axes.bbox.x1 + 1 for name in names)


@pytest.mark.parametrize("value", [1e300, 1e-300, 0.0, -1.0])
def test_stages_on_a_loss_of_any_size(tmp_path, value):
    loss = np.linspace(1.0, 2.0, 60)
    loss[30] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_dashboard(adaptive_run(["a"], [0.5], loss=loss), tmp_path / "picture.png")


def test_a_run_without_a_curriculum_has_no_mark():
    axes = loss_panel(make_run("mdlm", 60))
    assert not axes.texts
    assert not [line for line in axes.get_lines() if len(line.get_xdata()) == 2]
