"""Pictures of what callbacks have measured: the numbers of the log, over any axis, and no panel without one."""

from __future__ import annotations

import pytest
from made_runs import make_run

from hf_difflm.errors import UserError
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.journal.schema import MeasurementRecord
from hf_difflm.runs.plots.kinds import MEASURED_KINDS, plot_runs
from hf_difflm.runs.plots.series import Drawing
from hf_difflm.runs.plots.style import fit_to_page

STEPS = (10, 50, 100)
HISTOGRAM = {"low": -1.0, "high": 1.0, "counts": [1, 3]}


def _measured(layers=2, name="demo", **left_out):
    run = make_run(name, 100)
    for step in STEPS:
        norms = {"grad_norm/global": 1.0 / step, **{f"grad_norm/layer_{n:02d}": (n + 1) / step for n in range(layers)}}
        statistics = {"update_ratio/mlp": 0.01, "update_ratio/layer_00": 0.5, "activation/layer_00/rms": float(step)}
        throughput = {
            "throughput/tokens_per_sec": 100.0 * step,
            "throughput/evaluation_s": 2.0,
            "throughput/data_wait_s": 9.0,
        }
        for source, metrics in (("gradients", norms), ("statistics", statistics), ("throughput", throughput)):
            kept = {key: value for key, value in metrics.items() if key not in left_out.get(source, ())}
            histograms = {"activation/layer_00": HISTOGRAM} if source == "statistics" else None
            run.measurements.append(MeasurementRecord(iter=step, source=source, metrics=kept, histograms=histograms))
    return run


def _draw(kind, *runs, x="step", width=None):
    names = [run.name for run in runs]
    return MEASURED_KINDS[kind](Drawing(list(runs), names, seed_groups(runs, names), "", x, width))


def _curves(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_gradients_are_drawn_by_part_and_by_layer():
    parts, layers = _draw("gradients", _measured()).axes
    assert _curves(parts) == {"global": [[step, 1 / step] for step in STEPS]}
    assert _curves(layers) == {f"layer_{n:02d}": [[step, (n + 1) / step] for step in STEPS] for n in (0, 1)}
    assert {axes.get_yscale() for axes in (parts, layers)} == {"log"}


def test_statistics_are_updates_activations_and_the_first_and_last_histogram():
    updates, activations, histogram = _draw("statistics", _measured()).axes
    assert _curves(updates) == {"mlp": [[step, 0.01] for step in STEPS]}
    assert _curves(activations) == {"layer_00": [[step, step] for step in STEPS]}
    assert [text.get_text() for text in histogram.get_legend().get_texts()] == ["step 10", "step 100"]
    # A density: 1 of 4 values lies in the lower half, whose width is 1.
    assert [patch.get_data().values.tolist() for patch in histogram.patches] == [[0.25, 0.75]] * 2


def test_throughput_is_the_speed_and_what_took_time_beside_training():
    speed, beside = _draw("throughput", _measured()).axes
    assert list(_curves(speed).values()) == [[[step, 100 * step] for step in STEPS]]
    assert speed.get_ylim()[0] == 0
    (bar,) = beside.patches
    assert ([label.get_text() for label in beside.get_yticklabels()], bar.get_width()) == (["evaluation"], 6.0)
    assert beside.get_xscale() == "linear"  # the length of a bar on a logarithmic axis says nothing


@pytest.mark.parametrize("kind", MEASURED_KINDS)
def test_measurements_are_drawn_over_the_axis_that_is_asked_for(kind):
    axes = _draw(kind, _measured(), x="tokens").axes[0]
    assert axes.lines[0].get_xdata().tolist() == [100 * step for step in STEPS]
    assert axes.get_xlabel() == "scored tokens"


def test_panels_that_no_run_has_anything_for_are_not_drawn():
    assert len(_draw("gradients", _measured(layers=0)).axes) == 1
    only_speed = ("throughput/evaluation_s",)
    assert len(_draw("throughput", _measured(throughput=only_speed)).axes) == 1
    without = ("activation/layer_00/rms",)
    assert len(_draw("statistics", _measured(statistics=without)).axes) == 2
    both = _draw("gradients", _measured(layers=0, name="a"), _measured(name="b"))
    assert [axes.get_title(loc="left").rpartition(": ")[2] for axes in both.axes[::2]] == ["a", "b"]


def test_of_very_many_layers_a_few_are_named_and_all_look_different():
    layers = _draw("gradients", _measured(layers=32)).axes[1]
    assert len({line.get_color() for line in layers.lines}) == 32
    names = [text.get_text() for text in layers.get_legend().get_texts()]
    assert (names[0], names[-1], len(names)) == ("layer_00", "layer_31", 6)
    few = _draw("gradients", _measured(layers=12)).axes[1]
    assert len({(line.get_color(), line.get_linestyle()) for line in few.lines}) == 12


@pytest.mark.parametrize("kind", MEASURED_KINDS)
@pytest.mark.parametrize("width", [None, 3.25])
def test_no_text_of_a_picture_lies_over_another_or_outside(kind, width):
    figure = _draw(kind, _measured(), width=width)
    if width is not None:
        fit_to_page(figure)
    figure.canvas.draw()
    whole = figure.bbox.padded(1)
    for axes in figure.axes:
        texts = [axes._left_title, axes.xaxis.label, axes.yaxis.label]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        for place, box in enumerate(boxes):
            assert whole.contains(box.x0, box.y0), texts[place].get_text()
            assert whole.contains(box.x1, box.y1), texts[place].get_text()
            assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_who_has_measured_nothing_is_told(tmp_path):
    with pytest.raises(UserError, match="gradients was left out: no run has measured gradients"):
        plot_runs([make_run()], tmp_path, ["gradients"])
    runs = [_measured(name=str(place)) for place in range(5)]
    with pytest.raises(UserError, match="5 runs have measured gradients; name at most 4"):
        plot_runs(runs, tmp_path, ["gradients"])
