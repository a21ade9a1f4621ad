"""Every kind of picture: drawn from any runs, showing what it must, and saying why where it cannot."""

from __future__ import annotations

import dataclasses
import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import make_run, million_steps
from matplotlib.image import imread

from hf_difflm.errors import UserError
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.journal.steps import Steps
from hf_difflm.runs.plots.evaluation import milestone_thresholds, milestones
from hf_difflm.runs.plots.kinds import KINDS, plot_runs
from hf_difflm.runs.plots.series import Drawing, group_curve
from hf_difflm.runs.plots.style import FORMATS, fit_to_page, label_text, save, without_titles


def _drawing(runs, x="step", title=""):
    names = [run.name for run in runs]
    return Drawing(runs, names, seed_groups(runs, names), title, x)


def _legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("count", "steps"),
    [(1, 2), (1, 300), pytest.param(12, 2, marks=pytest.mark.slow), pytest.param(12, 300, marks=pytest.mark.slow)],
)
def test_every_kind_is_a_picture_with_one_run_and_with_twelve(tmp_path, steps, count):
    runs = [make_run(f"run{place}", steps, final=1 + place / 10, width=place) for place in range(count)]
    plots = plot_runs(runs, tmp_path / "plots", title=" - a title")
    assert [path.name for path in plots.paths] == [f"{kind}.png" for kind in KINDS]
    assert plots.left_out == []
    for path in plots.paths:
        assert imread(path).std() > 0.01


@pytest.mark.parametrize("kind", ["loss_per_step", "loss_smoothed", "comparison", "validation", "mfu"])
@pytest.mark.parametrize("x", ["epoch", "tokens", "flops", "time"])
def test_curves_are_drawn_over_every_axis_to_its_end_and_named_with_its_unit(kind, x):
    figure = KINDS[kind](_drawing([make_run(steps=400)], x))
    axes = figure.axes[-1]
    ends = {"epoch": 2.5, "tokens": 40_000, "flops": 4e11, "time": 20.0}
    assert axes.dataLim.x1 == pytest.approx(ends[x])
    labels = {"epoch": "epoch", "tokens": "scored tokens", "flops": "model FLOPs", "time": "training time (s)"}
    assert axes.get_xlabel() == labels[x]


def test_time_is_shown_in_the_unit_that_suits():
    hours = make_run(steps=400, columns={"time_ms": np.full(400, 60_000.0)})
    figure = KINDS["loss_smoothed"](_drawing([hours], "time"))
    assert figure.axes[0].get_xlabel() == "training time (hours)"
    ticks = [figure.axes[0].xaxis.get_major_formatter()(tick, 0) for tick in figure.axes[0].get_xticks()]
    assert {"2", "4", "6"} <= set(ticks)


def test_a_million_steps_are_drawn_in_every_kind_within_five_seconds_and_the_single_spike_is_seen(tmp_path):
    run = million_steps(spike_at=123_456)
    start = time.process_time()  # what else the machine does is not this program's time
    plots = plot_runs([run], tmp_path)
    assert time.process_time() - start < 5
    assert len(plots.paths) == len(KINDS)
    figure = KINDS["loss_per_step"](_drawing([run]))
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) <= 2000
    assert (line.get_xdata()[line.get_ydata().argmax()], line.get_ydata().max()) == (123_456, 40.0)
    # In the picture: pixels of the line's colour in the upper half, which nothing but the spike reaches.
    pixels = imread(tmp_path / "loss_per_step.png")[..., :3]
    upper = pixels[pixels.shape[0] // 8 : pixels.shape[0] // 2]
    blue = (upper[..., 2] - upper[..., 0]) > 0.3
    assert blue.any(axis=1).mean() > 0.8


def test_several_seeds_are_one_curve_with_a_band_and_their_number_in_the_legend():
    runs = [make_run(f"demo-s{seed}", seed=seed, final=2 + seed / 10) for seed in (1, 2, 3)]
    for kind in ("loss_smoothed", "validation", "comparison", "loss_per_epoch", "milestones"):
        figure = KINDS[kind](_drawing([*runs, make_run("other", seed=9, learning_rate=5.0)]))
        first, second = _legend(figure)
        assert first.startswith("demo")
        assert "n = 3 seeds" in first
        assert "seeds" not in second
        drawn = figure.axes[-1].collections if kind != "milestones" else figure.axes[-1].containers
        assert len(drawn) >= 1
    # Each step and its time belong to one run.
    assert len(_legend(KINDS["step_time_histogram"](_drawing(runs)))) == 3


@given(
    st.lists(st.integers(2, 40), min_size=2, max_size=5),
    st.integers(0, 1000),
)
def test_the_band_is_the_standard_error_of_the_mean_where_all_curves_are_known(sizes, seed):
    random = np.random.default_rng(seed)
    curves = [(np.arange(size, dtype=float), random.normal(size=size)) for size in sizes]
    curve = group_curve(curves)
    shortest = min(sizes)
    values = np.stack([y[:shortest] for _, y in curves])
    assert len(curve.x) == shortest
    np.testing.assert_allclose(curve.y, values.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(curve.error, values.std(axis=0, ddof=1) / np.sqrt(len(sizes)), atol=1e-12)
    assert curve.runs == len(sizes)


def test_the_mean_loss_of_each_epoch_is_drawn_and_an_unfinished_one_is_hollow():
    loss = np.concatenate([np.full(40, 3.0), np.full(40, 2.0), np.full(20, 1.0)])
    figure = KINDS["loss_per_epoch"](_drawing([make_run(steps=100, columns={"loss": loss})]))
    line, hollow = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 3.0], [2, 2.0], [3, 1.0]]
    assert hollow.get_markerfacecolor() == "white"
    assert "unfinished" in figure.axes[0].get_xlabel()


def test_validation_has_standard_errors_the_bound_and_the_source():
    run = make_run()
    run.header.data["source_nll"] = 1.25
    figure = KINDS["validation"](_drawing([run]))
    (container,) = figure.axes[0].containers
    low, high = container.lines[2][0].get_segments()[0][:, 1]
    assert high - low == pytest.approx(0.02)
    assert _legend(figure) == ["demo (upper bound)", "source: 1.2500 nats/token"]


def test_step_times_are_shares_that_add_up_to_all_steps_whatever_the_outliers():
    times = np.full(1000, 50.0)
    times[7] = 90_000.0
    figure = KINDS["step_time_histogram"](_drawing([make_run(steps=1000, columns={"time_ms": times})]))
    shares = figure.axes[0].patches[0].get_data().values
    assert shares.sum() == pytest.approx(100)
    assert figure.axes[0].get_xlim()[1] < 100
    assert "slower" in figure.axes[0].get_xlabel()
    assert _legend(figure) == ["demo (median 50 ms)"]


def test_a_milestone_is_the_first_evaluation_at_or_below_its_threshold():
    run = make_run(steps=100, evaluations=10)
    thresholds = milestone_thresholds([run])
    assert (np.diff(thresholds) < 0).all()
    reached = milestones(run, "step", thresholds)
    by_hand = [
        next((record.iter for record in run.evaluations if record.nll <= threshold), np.nan) for threshold in thresholds
    ]
    np.testing.assert_array_equal(reached, by_hand)
    assert np.isnan(milestones(run, "step", np.array([0.5]))).all()


def test_more_than_three_runs_get_a_panel_each_for_their_single_steps():
    runs = [make_run(f"run{place}", width=place) for place in range(5)]
    figure = KINDS["loss_per_step"](_drawing(runs))
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title("left") for axes in shown] == [run.name for run in runs]


def test_what_no_run_knows_is_left_out_with_its_reason_and_alone_is_an_error(tmp_path):
    run = make_run()
    bare = dataclasses.replace(
        run, evaluations=[], steps=Steps({name: run.column(name) for name in ("iter", "steps", "loss")})
    )
    plots = plot_runs([bare], tmp_path)
    assert [path.stem for path in plots.paths] == ["loss_per_step", "loss_smoothed", "comparison"]
    assert len(plots.left_out) == 5
    assert any("mfu was left out: no run knows its MFU" in sentence for sentence in plots.left_out)
    with pytest.raises(UserError, match="there is nothing to plot: mfu was left out"):
        plot_runs([bare], tmp_path, ["mfu"])
    with pytest.raises(UserError, match="or none with its model FLOPs"):
        plot_runs([bare], tmp_path, ["loss_per_step"], x="flops")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kinds": ["loss_per_stp"]}, "kind of plot 'loss_per_stp' is unknown; did you mean 'loss_per_step'"),
        ({"x": "steps"}, "x axis 'steps' is unknown; did you mean 'step'"),
        ({"picture_format": "jpeg"}, "format 'jpeg' is unknown"),
        ({"names": ["a", "b"]}, "there are 2 names .a, b. for 1 run"),
    ],
)
def test_a_misspelt_choice_is_refused_before_anything_is_drawn(tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        plot_runs([make_run()], tmp_path / "plots", **arguments)
    assert not (tmp_path / "plots").exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "plots").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        plot_runs([make_run()], tmp_path / "plots", ["mfu"])


@pytest.mark.parametrize("picture_format", FORMATS)
def test_every_format_is_what_it_says(tmp_path, picture_format):
    (path,) = plot_runs([make_run()], tmp_path, ["validation"], picture_format=picture_format).paths
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")
    assert path.suffix == f".{picture_format}"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(min_size=1, max_size=60))
def test_no_name_breaks_a_picture_or_vanishes_from_its_legend(tmp_path, name):
    figure = KINDS["mfu"](_drawing([make_run(name, steps=5)], title=name))
    figure.set_dpi(20)
    save(figure, tmp_path / "picture.png")
    assert not label_text(name).startswith("_")


def test_mathematics_in_a_name_is_only_text(tmp_path):
    assert plot_runs([make_run(r"$\frac{_^$ and _hidden")], tmp_path, ["validation"], title="$x^").paths


def test_a_pdf_has_truetype_fonts_alone(tmp_path):
    (path,) = plot_runs([make_run()], tmp_path, ["validation"], picture_format="pdf").paths
    fonts = set(re.findall(rb"/Subtype /(Type3|TrueType|CIDFontType2|Type0)", path.read_bytes()))
    assert fonts
    assert b"Type3" not in fonts


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_for_a_column_is_as_wide_as_it_and_its_letters_are_those_of_a_page(tmp_path, kind):
    runs = [make_run(f"run{place}", 100, final=1 + place / 10, width=place) for place in range(2)]
    (path,) = plot_runs(runs, tmp_path, [kind], picture_format="pdf", width=3.25).paths
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", path.read_bytes())
    assert float(box[1]) == pytest.approx(3.25 * 72)
    figure = KINDS[kind](dataclasses.replace(_drawing(runs), width=3.25))
    fit_to_page(figure)
    figure.canvas.draw()
    whole = figure.bbox.padded(1)
    for axes in figure.axes:
        assert axes.get_position().width > 0.6  # of the figure: panels stand below each other
        for text in (axes._left_title, axes.xaxis.label, axes.yaxis.label):
            box = text.get_window_extent()
            assert whole.contains(box.x0, box.y0), text.get_text()
            assert whole.contains(box.x1, box.y1), text.get_text()
        assert axes.xaxis.label.get_fontsize() == pytest.approx(7.7)
        assert {label.get_fontsize() for label in axes.get_xticklabels()} == {7.0}


def test_panels_stand_side_by_side_where_a_page_has_room():
    left, right = KINDS["comparison"](dataclasses.replace(_drawing([make_run()]), width=6.75)).axes
    assert left.get_subplotspec().rowspan == right.get_subplotspec().rowspan


def test_no_titles_leaves_those_that_tell_panels_apart():
    def titles(kind, runs):
        figure = KINDS[kind](_drawing(runs, title="mine"))
        without_titles(figure)
        return [figure.get_suptitle(), *(axes.get_title(loc="left") for axes in figure.axes)]

    assert titles("validation", [make_run()]) == ["", ""]
    assert titles("milestones", [make_run()]) == ["", "", "", ""]
    assert titles("comparison", [make_run()]) == ["", "Training loss", "Evaluation"]
    four = [make_run(name, 5) for name in "abcd"]
    assert titles("loss_per_step", four) == ["", *"abcd"]
