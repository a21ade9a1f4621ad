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
from hf_difflm.runs.plots.kinds import KINDS
from hf_difflm.runs.plots.metric import draw_metric
from hf_difflm.runs.plots.series import Drawing
from hf_difflm.runs.showing.overview import show_text

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


def _in_per_cent(tmp_path):
    rows = ["step,loss,accuracy,mfu,eval_loss,eval_cola_accuracy,eval_accuracy"]
    rows += [f"{step},{1 / step},{0.2 * step},0.3,{2 / step},{40 + step},{50 + step}" for step in range(1, 8)]
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(rows) + "\n")
    return load_run(path)


def test_the_accuracies_of_another_program_are_drawn_as_they_were_logged(drawn, tmp_path):
    run = _in_per_cent(tmp_path)
    panels, _ = drawn(run)
    # 0.2 to 1.4: neither shares that are shown as per cent nor per cent from 0 to 100, whatever they are.
    assert panels["Accuracy"].lines[0].get_ydata().tolist() == run.column("accuracy").tolist()
    assert panels["Accuracy"].get_ylim()[1] < 60
    assert panels["Accuracy"].get_ylabel() == panels["Loss against accuracy"].get_ylabel() == "accuracy"
    assert panels["eval_cola_accuracy"].lines[0].get_ydata().tolist() == [40.0 + step for step in range(1, 8)]


def test_no_unit_of_ours_stands_beside_the_accuracies_of_another_program(tmp_path):
    run = _in_per_cent(tmp_path)
    charts = page_data([run], ["theirs"], seed_groups([run], ["theirs"]))["charts"]
    units = {chart["title"]: chart["unit"] for chart in charts}
    assert {units[name] for name in ("Training accuracy", "Evaluation accuracy", "MFU", "eval_cola_accuracy")} == {""}
    assert "share" not in show_text(run, 100)
    drawing = Drawing([run], ["theirs"], seed_groups([run], ["theirs"]), "", "step")
    labels = {name: draw_metric(drawing, name).axes[0].get_ylabel() for name in ("eval_cola_accuracy", "eval_accuracy")}
    assert labels == {"eval_cola_accuracy": "eval_cola_accuracy", "eval_accuracy": "accuracy"}
    assert KINDS["mfu"](drawing).axes[0].get_ylabel() == "MFU"
