from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from hf_difflm.errors import UserError
from hf_difflm.runs import plot_comparison
from hf_difflm.runs.plots.decimation import decimate, moving_mean


@given(st.integers(1, 20_000), st.integers(0, 2**32 - 1), st.integers(2, 3000))
def test_decimation_keeps_order_and_both_extremes(size, seed, points):
    y = np.random.default_rng(seed).standard_normal(size)
    x = np.arange(size, dtype=float)
    fewer_x, fewer_y = decimate(x, y, points)
    assert len(fewer_x) <= max(points, 2)
    assert (np.diff(fewer_x) > 0).all()
    assert np.array_equal(y[fewer_x.astype(int)], fewer_y)
    assert fewer_y.min() == y.min()
    assert fewer_y.max() == y.max()


def test_a_single_spike_in_a_million_points_stays_visible():
    y = np.ones(1_000_000)
    y[123_456] = 50.0
    x, fewer = decimate(np.arange(1_000_000, dtype=float), y)
    assert len(fewer) <= 2000
    assert x[fewer.argmax()] == 123_456


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=200), st.integers(1, 50))
def test_the_moving_mean_is_the_mean_of_the_window_around(values, window):
    y = np.array(values)
    smooth = moving_mean(y, window)
    for place in range(len(y)):
        begin, end = max(place - (window - 1) // 2, 0), place + window // 2 + 1
        assert smooth[place] == pytest.approx(y[begin:end].mean(), abs=1e-9)


@pytest.mark.parametrize("steps", [0, 1, 2, 30])
def test_any_length_of_run_gives_a_picture(write_run, tmp_path, steps):
    runs = [
        write_run("a", steps=steps, evaluate_every=1, bound="nelbo", data={"source_nll": 1.0}),
        write_run("b", steps=steps, evaluate_every=100),
    ]
    path = plot_comparison(runs, tmp_path / "pictures" / "curves.png", title="curves")
    pixels = imread(path)
    assert pixels.shape[1] > 1000
    assert pixels.std() > 0.01
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_each_run_has_its_own_colour_and_errors_are_drawn(write_run, tmp_path):
    from matplotlib.colors import to_rgb

    from hf_difflm.runs.plots.style import COLOURS

    path = plot_comparison([write_run("a"), write_run("b", steps=18, evaluate_every=9)], tmp_path / "two.png")
    pixels = imread(path)[..., :3].reshape(-1, 3)
    for colour in COLOURS[:2]:
        assert (np.abs(pixels - to_rgb(colour)).max(axis=1) < 0.01).sum() > 100


def test_twelve_runs_and_vector_formats_work(write_run, tmp_path):
    runs = [write_run(f"run{n}") for n in range(12)]
    svg = plot_comparison(runs, tmp_path / "all.svg").read_text()
    assert svg.lstrip().startswith("<?xml")
    with pytest.raises(UserError, match="no suffix of a picture"):
        plot_comparison(runs, tmp_path / "all.txt")
    with pytest.raises(UserError, match="no run to plot"):
        plot_comparison([], tmp_path / "all.png")
