"""What another Trainer logs stands in the panels that it would leave empty; a dashboard of ours is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.dashboard import figure
from hf_difflm.runs.journal.schema import MeasurementRecord, RunRecord, StepRecord
from hf_difflm.runs.pages.curves import page_data

pytestmark = pytest.mark.borders
FOREIGN_LOGS = Path(__file__).parents[2] / "fixtures" / "foreign_logs"


@pytest.fixture
def drawn(monkeypatch):
    """The panels of a dashboard by title, and the sentences in it."""

    def draw(run) -> tuple[dict[str, object], list[str]]:
        found: list[Figure] = []
        monkeypatch.setattr(figure, "save", lambda picture, path: found.append(picture))
        figure.draw_dashboard(run, "a.png")
        panels = {axes.get_title(loc="left"): axes for axes in found[0].axes if axes.get_title(loc="left")}
        return panels, [text.get_text() for axes in found[0].axes for text in axes.texts]

    return draw


def test_a_dashboard_of_trl_has_its_accuracy_and_entropy_and_no_empty_panel(drawn):
    run = load_run(FOREIGN_LOGS / "trl_sft_trainer_state.json")
    panels, sentences = drawn(run)
    assert {"Training loss", "Mean token accuracy", "entropy", "Loss against accuracy", "num_tokens"} <= panels.keys()
    assert sentences == []
    assert panels["entropy"].lines[0].get_ydata().tolist() == run.column("entropy").tolist()
    evaluated = [record.metrics["eval_entropy"] for record in run.evaluations]
    assert panels["entropy"].lines[1].get_ydata().tolist() == evaluated
    accuracy = (100 * run.column("mean_token_accuracy")).tolist()
    assert panels["Mean token accuracy"].lines[0].get_ydata().tolist() == accuracy
    assert panels["entropy"].get_ylabel() == ""


def test_what_has_no_room_is_named(drawn, tmp_path):
    names = [f"rewards/{number}" for number in range(9)]
    path = tmp_path / "grpo.csv"
    path.write_text("\n".join([",".join(["step", "loss", *names]), *(",".join([f"{i}"] * 11) for i in (1, 2))]) + "\n")
    run = load_run(path)
    panels, _ = drawn(run)
    assert [title for title in panels if title in names] == names[:6]
    picture = panels["Training loss"].figure
    assert any(
        "no room for rewards/6, rewards/7, rewards/8 (plot --metric NAME)" in t.get_text() for t in picture.texts
    )


def test_a_run_of_ours_keeps_its_panels(drawn, write_run):
    panels, sentences = drawn(write_run(objective="ar", bound="exact"))
    assert "Accuracy" in panels
    assert sentences[:1] == ["accuracy: not logged"]


def test_a_page_has_a_chart_for_everything_that_another_trainer_logs():
    run = load_run(FOREIGN_LOGS / "trl_sft_trainer_state.json")
    data = page_data([run], ["trl"], seed_groups([run], ["trl"]))
    charts = {chart["title"]: chart for chart in data["charts"]}
    assert {"entropy", "mean_token_accuracy", "num_tokens"} <= charts.keys()
    assert charts["num_tokens"]["curves"][0]["y"] == run.column("num_tokens").tolist()
    assert charts["entropy"]["unit"] == ""
    evaluated = [record.metrics["eval_entropy"] for record in run.evaluations]
    assert charts["eval_entropy"]["curves"][0]["y"] == pytest.approx(evaluated, rel=1e-5)


def test_throughput_that_a_callback_has_measured_fills_its_panel_and_rewards_come_first(drawn, tmp_path):
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.append(RunRecord(run_name="dpo"))
    for step in (1, 2, 3):
        extra = {"entropy": 1.0, "logps/chosen": -1.0, "num_tokens": 8.0 * step, "rewards/margins": 0.5 * step}
        journal.append(StepRecord(iter=step, loss=1.0 / step, extra=extra))
        metrics = {"throughput/tokens_per_sec": 100.0 * step}
        journal.append(MeasurementRecord(iter=step, source="throughput", metrics=metrics))
    journal.close()
    panels, _ = drawn(load_run(tmp_path / "run"))
    assert panels["Throughput"].lines[0].get_ydata().tolist() == [100.0, 200.0, 300.0]
    names = ["rewards/margins", "entropy", "logps/chosen", "num_tokens"]
    assert [title for title in panels if title in names] == names
