"""A stock Trainer logs no speed: what callbacks have measured of it stands wherever the rows of our Trainer are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from any_trainer import build_trainer
from made_runs import make_run
from matplotlib.figure import Figure

from hf_difflm.callbacks import GradientNormCallback, RunLogCallback, ThroughputCallback
from hf_difflm.runs import Run, compare_runs, load_run, write_report
from hf_difflm.runs.checklist.all_checks import check_run
from hf_difflm.runs.comparing.best import best_run
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.dashboard import figure
from hf_difflm.runs.dashboard.files import metrics_history
from hf_difflm.runs.derived.document import summarize
from hf_difflm.runs.journal.schema import MeasurementRecord
from hf_difflm.runs.pages.curves import page_data
from hf_difflm.runs.plots.kinds import KINDS
from hf_difflm.runs.plots.metric import draw_metric
from hf_difflm.runs.plots.scalars import scalar_names
from hf_difflm.runs.plots.series import Drawing
from hf_difflm.runs.showing.overview import show_text

STEPS, EVERY = 240, 2
NAMES = ("tokens_per_sec", "time_ms", "mfu", "grad_norm")


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six steps of a stock Trainer on a causal LM, a log each two."""
    folder = tmp_path_factory.mktemp("stock")
    watch = (RunLogCallback(peak_flops=1e12), ThroughputCallback(peak_flops=1e12), GradientNormCallback())
    build_trainer("causal", folder, *watch).train()
    return load_run(folder)


def drawing(*runs: Run) -> Drawing:
    names = [run.name for run in runs]
    return Drawing(list(runs), names, seed_groups(runs, names), "", "step")


def measured_run(name: str = "measured", rate: float = 1000.0) -> Run:
    """A long run none of whose rows knows speed or gradient norm; each second step a report of 2 steps of 10 ms."""
    run = make_run(name, STEPS, objective=None, bound=None, columns={each: np.full(STEPS, np.nan) for each in NAMES})
    for step in range(EVERY, STEPS + 1, EVERY):
        speed = {"throughput/tokens_per_sec": rate + step, "throughput/step_time_ms": 10.0, "throughput/mfu": 20.0}
        run.measurements += [
            MeasurementRecord(iter=step, source="throughput", metrics=speed),
            MeasurementRecord(iter=step, source="gradients", metrics={"grad_norm/global": 1.0 / step}),
        ]
    run.measurements.append(MeasurementRecord(iter=STEPS, source="throughput", metrics={"throughput/saving_s": 1.0}))
    return run


def test_the_journal_of_a_stock_trainer_has_its_speed_in_measurements_alone(stock):
    assert not np.isfinite(stock.column("tokens_per_sec")).any()
    rates, times = stock.known("tokens_per_sec"), stock.known("time_ms")
    assert rates[:, :2].tolist() == [[2, 2], [4, 2], [6, 2]]
    expected = (rates[:, 2] * times[:, 2]).sum() / times[:, 2].sum()
    assert stock.tokens_per_sec == pytest.approx(expected)


def test_every_reader_shows_the_measured_speed_of_a_stock_trainer(stock, tmp_path, monkeypatch):
    rates = stock.known("tokens_per_sec")[:, 2]
    assert compare_runs([stock]).rows[0].tokens_per_sec == stock.tokens_per_sec > 0
    assert [row["tokens_per_sec"] for row in metrics_history(stock)] == rates.tolist()
    (chart,) = [
        chart
        for chart in page_data([stock], ["stock"], seed_groups([stock], ["stock"]))["charts"]
        if chart["title"] == "Throughput"
    ]
    assert chart["curves"][0]["x"] == [2, 4, 6]
    assert "throughput (tokens/s)" in show_text(stock, 120)
    throughput = next(check for check in check_run(stock) if check.name == "throughput is steady")
    assert throughput.finding.startswith(f"{stock.tokens_per_sec:,.0f} tokens/s")
    assert draw_metric(drawing(stock), "tokens_per_sec").axes[0].lines[0].get_ydata().tolist() == rates.tolist()
    write_report([stock], tmp_path / "report.md")
    report = (tmp_path / "report.md").read_text()
    assert f"{stock.tokens_per_sec:,.0f}" in report
    found: list[Figure] = []
    monkeypatch.setattr(figure, "save", lambda picture, path: found.append(picture) or path)
    figure.draw_dashboard(stock, Path("a.png"))
    (axes,) = [axes for axes in found[0].axes if axes.get_title(loc="left") == "Throughput"]
    assert axes.lines[0].get_ydata().tolist() == rates.tolist()


def test_a_long_run_is_judged_and_averaged_by_its_reports(monkeypatch):
    run = measured_run()
    assert run.tokens_per_sec == pytest.approx(1000 + (STEPS + EVERY) / 2)
    throughput = next(check for check in check_run(run) if check.name == "throughput is steady")
    assert throughput.outcome == "passed"
    assert "median 1,121 tokens/s over 2.4 s of training" in throughput.finding
    assert summarize(run)["avg_mfu"] == pytest.approx(20.0)
    found: list[Figure] = []
    monkeypatch.setattr(figure, "save", lambda picture, path: found.append(picture) or path)
    figure.draw_dashboard(run, Path("a.png"))
    panels = {axes.get_title(loc="left"): axes for axes in found[0].axes}
    reports, mean = panels["Throughput"].lines
    assert len(reports.get_ydata()) == STEPS // EVERY
    # 50 steps are 25 reports; the last point is the mean of the half of them that is there.
    assert mean.get_ydata()[-1] == pytest.approx(np.mean(1000.0 + np.arange(STEPS - 24, STEPS + 1, 2)))
    assert "Learning rate, gradient norm" in panels


def test_pictures_and_the_best_of_several_runs_take_what_was_measured():
    runs = [measured_run("slow"), measured_run("fast", 5000.0)]
    assert set(NAMES) <= set(scalar_names(runs))
    assert best_run(runs, "tokens_per_sec", "higher")["run_name"] == "fast"
    for kind in ("step_time_histogram", "mfu"):
        assert len(KINDS[kind](drawing(*runs)).axes) == 1


def test_a_row_that_knows_goes_before_every_measurement():
    run = measured_run()
    known = make_run(steps=STEPS)
    known.measurements = run.measurements
    assert known.known("tokens_per_sec")[:, 2].tolist() == known.column("tokens_per_sec").tolist()
    assert known.tokens_per_sec == pytest.approx(2000.0)


def test_the_history_of_a_run_is_json():
    assert json.loads(json.dumps(metrics_history(measured_run())))[1]["tokens_per_sec"] == 1002.0
