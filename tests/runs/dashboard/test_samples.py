"""Which samples the dashboard shows, and that a text that does not fit is seen to be cut."""

from __future__ import annotations

import pytest
from made_runs import make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_difflm.runs.dashboard.samples import chosen, draw_samples
from hf_difflm.runs.journal.schema import SampleRecord

WIDE = ("W" * 40, "語" * 20, "m" * 10_000, "a wide one: " + "@" * 60)


def sample(step, text="text", mode=None, prompt=""):
    return SampleRecord(iter=step, prompt=prompt, text=text, extra={} if mode is None else {"mode": mode})


def test_drawn_texts_are_chosen_before_greedy_ones_and_blank_ones_are_not():
    both = [sample(step, text, mode) for step in range(9) for mode in ("greedy", "sampled") for text in ("x", " \n")]
    shown = chosen(both)
    assert [(one.iter, one.extra["mode"], one.text) for one in shown] == [
        (step, "sampled", "x") for step in range(4, 9)
    ]


@pytest.mark.parametrize("mode", ["greedy", None])
def test_where_nothing_was_drawn_the_last_texts_are_chosen_whatever_they_are(mode):
    assert [one.iter for one in chosen([sample(step, mode=mode) for step in range(7)])] == [2, 3, 4, 5, 6]


def test_where_all_is_blank_the_last_are_shown_as_they_are():
    assert [one.iter for one in chosen([sample(step, " ", "sampled") for step in range(7)])] == [2, 3, 4, 5, 6]
    assert list(chosen([])) == []


@pytest.mark.parametrize("text", WIDE)
@pytest.mark.parametrize("width", [16.0, 7.0])
def test_no_prompt_or_text_reaches_into_the_next_column_and_what_is_cut_ends_in_dots(text, width):
    figure = Figure(figsize=(width, 3))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.05, 0.05, 0.9, 0.85))
    draw_samples(axes, make_run("wide", 10, samples=[sample(3, text, "sampled", prompt=text)]))
    figure.canvas.draw()
    step, prompt, written, *_ = axes.texts[4:]  # below the four headings
    assert step.get_text() == "3"
    for cell, column in ((prompt, 1), (written, 2)):
        right = axes.texts[column + 1].get_window_extent().x0 if column == 1 else axes.texts[3].get_window_extent().x1
        assert cell.get_window_extent().x1 <= right
        assert text.startswith(cell.get_text().removesuffix("…"))
        assert cell.get_text() == text or cell.get_text().endswith("…")


def test_a_text_that_fits_is_shown_whole():
    figure = Figure(figsize=(16, 3))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_samples(axes, make_run("short", 10, samples=[sample(3, "a short text", "sampled", prompt="a prompt")]))
    assert {"a prompt", "a short text"} <= {text.get_text() for text in axes.texts}
