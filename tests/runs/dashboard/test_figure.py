"""The picture: every length of run, every gap in a log, hostile text; the same bytes each time."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from made_runs import TIME, make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_difflm.errors import UserError
from hf_difflm.runs.dashboard import panels as panels
from hf_difflm.runs.dashboard.figure import draw_dashboard, header_facts, up_to
from hf_difflm.runs.dashboard.noise import draw_by_noise, draw_masking_rate, is_diffusion
from hf_difflm.runs.dashboard.samples import cut, draw_samples, samples_table
from hf_difflm.runs.journal.schema import SampleRecord

HOSTILE = "$x^2$ \\frac{1}{0 _a_ <script>alert(1)</script> \x1b[31mred\x07 \ud800\udcff \u202e 日本語 🎉 \x00\n"


def noisy(steps: int, **columns: np.ndarray) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(steps)
    known = {
        "loss": 2 + 3 * np.exp(-np.arange(steps) / 100) + draw.normal(0, 0.1, steps),
        "accuracy": draw.uniform(0.2, 0.6, steps),
        "masking_rate": draw.uniform(0.3, 0.7, steps),
        "grad_norm": draw.uniform(0.5, 2, steps),
    }
    return known | columns


def axes_of(draw, run):
    """One panel alone, and what stands in it."""
    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw(axes, run)
    return axes


def texts(axes) -> str:
    return " | ".join(text.get_text() for text in axes.texts)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 49, 501, 100_000])
def test_a_run_of_any_length_is_drawn_without_a_warning(tmp_path, steps):
    run = make_run("any length", steps, columns=noisy(steps), evaluations=min(steps, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw_dashboard(run, tmp_path / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert picture.rstrip().endswith(b"IEND\xaeB`\x82")


def test_the_same_run_gives_the_same_bytes(tmp_path):
    first, second = (
        draw_dashboard(make_run("same", 300, columns=noisy(300)), tmp_path / name).read_bytes()
        for name in ("a.png", "b.png")
    )
    assert first == second


def test_hostile_text_harms_no_picture(tmp_path):
    samples = [
        SampleRecord(iter=step, time=TIME, prompt=prompt, text=text, extra={"mode": HOSTILE, "distinct_2": "much"})
        for step, (prompt, text) in enumerate([(HOSTILE, HOSTILE * 200), ("W" * 10_000, "語" * 10_000), ("", "")])
    ]
    run = make_run(HOSTILE * 50, 60, objective=HOSTILE, bound=HOSTILE, samples=samples, max_steps=HOSTILE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_dashboard(run, tmp_path / "picture.png")
    cells = samples_table(samples)[1]
    assert all(cell.isprintable() for row in cells for cell in row)
    assert max(len(cell) for row in cells for cell in row) <= 41


@pytest.mark.parametrize("value", [1e300, 1e-300, 0.0, -1.0])
def test_a_loss_of_any_size_is_drawn(tmp_path, value):
    loss = np.linspace(1.0, 2.0, 80)
    loss[40] = value
    draw_dashboard(make_run("odd", 80, columns=noisy(80, loss=loss, lr=np.abs(loss))), tmp_path / "picture.png")


def test_what_is_not_logged_is_said(tmp_path):
    steps = 20
    unknown = np.full(steps, np.nan)
    run = make_run(
        "classifier",
        steps,
        objective=None,
        bound=None,
        evaluations=0,
        samples=[],
        columns={name: unknown for name in ("accuracy", "tokens_per_sec", "lr")},
    )
    draw_dashboard(run, tmp_path / "picture.png")
    assert texts(axes_of(panels.draw_accuracy, run)) == "accuracy: not logged"
    assert texts(axes_of(panels.draw_throughput, run)) == "throughput: not logged"
    assert texts(axes_of(panels.draw_learning_rate, run)) == "learning rate: not logged"
    assert texts(axes_of(draw_samples, run)) == "no sample yet"
    assert not is_diffusion(run)
    empty = make_run("empty", 0, evaluations=0)
    assert texts(axes_of(panels.draw_loss, empty)) == "no loss yet"
    assert texts(axes_of(panels.draw_accuracy, empty)) == "no accuracy yet"


def test_the_average_is_that_of_the_fifty_steps_around_and_the_loss_is_drawn_as_logged():
    steps = 400
    run = make_run("loss", steps, columns=noisy(steps))
    drawn, average = axes_of(panels.draw_loss, run).get_lines()[:2]
    loss = run.column("loss")
    assert drawn.get_ydata() == pytest.approx(loss)
    expected = [loss[max(place - 24, 0) : place + 26].mean() for place in range(steps)]
    assert average.get_ydata() == pytest.approx(expected)


def test_rows_of_several_steps_are_averaged_over_fifty_steps_too():
    rows = 40
    columns = noisy(rows) | {"iter": np.arange(10, 10 * rows + 1, 10.0), "steps": np.full(rows, 10.0)}
    run = make_run("stock", rows, columns=columns)
    loss = run.column("loss")
    average = axes_of(panels.draw_loss, run).get_lines()[1].get_ydata()
    assert average[20] == pytest.approx(loss[18:23].mean())


def test_accuracy_is_shown_in_per_cent_whatever_the_log_has():
    shares = np.linspace(0.1, 0.4, 20)
    for accuracy in (shares, 100 * shares):
        axes = axes_of(panels.draw_accuracy, make_run("accuracy", 20, columns={"accuracy": accuracy}))
        assert axes.get_lines()[0].get_ydata() == pytest.approx(100 * shares)
        assert axes.get_ylim() == (0, 100)


def test_the_learning_rate_is_on_a_log_axis_and_what_is_next_to_zero_is_left_out():
    rates = np.geomspace(1e-6, 1e-3, 50)
    rates[0], rates[-1] = 0.0, 1e-12  # a warm-up and a schedule's end
    axes = axes_of(panels.draw_learning_rate, make_run("lr", 50, columns={"lr": rates}))
    assert axes.get_yscale() == "log"
    assert axes.get_lines()[0].get_ydata() == pytest.approx(rates[1:-1])
    still = axes_of(panels.draw_learning_rate, make_run("still", 5, columns={"lr": np.zeros(5)}))
    assert still.get_yscale() == "linear"
    assert still.get_lines()[0].get_ydata() == pytest.approx(np.zeros(5))


def test_the_recent_panel_has_the_last_500_steps():
    run = make_run("recent", 1200, columns=noisy(1200))
    x, y = axes_of(panels.draw_recent, run).get_lines()[0].get_data()
    assert (x[0], x[-1], len(x)) == (701, 1200, 500)
    assert y == pytest.approx(run.column("loss")[700:])


def test_the_scatter_is_of_rows_that_know_both_coloured_by_step():
    accuracy = np.linspace(0, 0.5, 10)
    accuracy[3] = np.nan
    run = make_run("scatter", 10, columns={"accuracy": accuracy})
    figure = Figure()
    axes, bar = figure.subplots(1, 2)
    panels.draw_loss_against_accuracy(axes, bar, run)
    points = axes.collections[0]
    assert points.get_array().tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    known = np.isfinite(accuracy)
    assert points.get_offsets().data == pytest.approx(
        np.stack([run.column("loss")[known], 100 * accuracy[known]], axis=1)
    )


@pytest.mark.parametrize(("name", "scale"), [("nll", 1), ("loss", 1), ("accuracy", 100)])
def test_bars_show_the_last_evaluation_by_masking_rate(name, scale):
    run = make_run("bins", 20)
    for place, record in enumerate(run.evaluations):
        record.metrics.update({f"eval_{name}_noise_{edge / 10:.1f}": place + edge / 10 for edge in (1, 2, 4)})
    axes = axes_of(draw_by_noise, run)
    last = len(run.evaluations) - 1
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(
        [scale * (last + edge) for edge in (0.1, 0.2, 0.4)]
    )
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == pytest.approx([0.05, 0.15, 0.35])
    first = axes.get_lines()[0].get_ydata()
    assert first == pytest.approx([scale * edge for edge in (0.1, 0.2, 0.4)])


def test_the_masking_rate_has_a_band_from_its_lowest_to_its_highest():
    steps = 100
    low, high = np.full(steps, 0.4), np.full(steps, 0.6)
    low[55], high[5] = 0.1, 0.9
    columns = noisy(steps, masking_rate=np.full(steps, 0.5), masking_rate_min=low, masking_rate_max=high)
    axes = axes_of(draw_masking_rate, make_run("rate", steps, columns=columns))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.1, 0.9)
    assert axes.get_lines()[0].get_ydata() == pytest.approx(np.full(10, 0.5))


def test_the_table_has_the_last_five_samples_and_what_is_known_of_their_quality():
    samples = [
        SampleRecord(iter=step, prompt=f"p{step}", text="t", extra={"unigram_entropy": step / 3, "seed": 1})
        for step in range(9)
    ]
    samples[-1].extra["distinct_2"] = 0.5
    shown = texts(axes_of(draw_samples, make_run("samples", 10, samples=samples)))
    assert all(f"p{step}" in shown for step in range(4, 9))
    assert "p3" not in shown
    headings, rows = samples_table(samples[-2:])
    assert headings == ["step", "prompt", "text", "dist-2", "entropy"]
    assert rows == [["7", "p7", "t", "-", "2.33"], ["8", "p8", "t", "0.50", "2.67"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 39 + "…"),
        ("語" * 21, "語" * 19 + "…"),
        ("a\n\t b", "a b"),
    ],
)
def test_texts_are_cut_to_forty_columns(text, expected):
    assert cut(text) == expected


def test_the_header_says_how_far_the_run_is():
    facts = header_facts(make_run("head", 100, max_steps=2000))
    assert facts[:4] == ["mdlm", "completed", "step 100 of 2,000", "10,000 tokens"]
    assert facts[-1] == "best eval 2.0010 ± 0.0100 nats/token at step 100"
    assert "step 100, epoch 2.50 of 3" in header_facts(make_run("head", 100, num_train_epochs=3, max_steps=-1))


def test_a_run_up_to_a_step_has_nothing_later():
    run = up_to(make_run("cut", 100), 40)
    assert run.column("iter")[-1] == 40
    assert [record.iter for record in run.evaluations] == [0, 20, 40]
    assert [record.iter for record in run.samples] == [20, 40]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        draw_dashboard(make_run("x", 3), Path(tmp_path / "file" / "picture.png"))
