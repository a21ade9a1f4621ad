"""Any scalar of any log, ours or another program's, in a picture of its own; the numbers drawn are those that were logged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_difflm.errors import UserError
from hf_difflm.runs import Journal, load_run, plot_runs
from hf_difflm.runs.journal.schema import EvaluationRecord, MeasurementRecord, RunRecord, StepRecord
from hf_difflm.runs.plots.kinds import KINDS, _drawing
from hf_difflm.runs.plots.metric import draw_metric
from hf_difflm.runs.plots.scalars import other_scalars, scalar_names

pytestmark = pytest.mark.borders
FOREIGN_LOGS = Path(__file__).parents[2] / "fixtures" / "foreign_logs"
TRL = FOREIGN_LOGS / "trl_sft_trainer_state.json"


def drawing(*runs):
    return _drawing(runs, None, None, "step")


def points(figure, panel=0):
    """What the first curve of a panel shows."""
    line = figure.axes[panel].lines[0]
    return list(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "loss", "evaluated"),
    [
        ("transformers_trainer_state.json", "loss", "eval_loss"),
        ("trl_sft_trainer_state.json", "loss", "eval_loss"),
        ("trainer_log.jsonl", "loss", "eval_loss"),
    ],
)
def test_the_pictures_of_a_trainers_log_show_the_numbers_in_the_file(name, loss, evaluated):
    text = (FOREIGN_LOGS / name).read_text()
    lines = text.splitlines()
    log = [json.loads(line) for line in lines] if name.endswith("l") else json.loads(text)["log_history"]
    steps = [row.get("step", row.get("current_steps")) for row in log]
    both = drawing(load_run(FOREIGN_LOGS / name))
    assert points(KINDS["loss_per_step"](both)) == [
        (step, row[loss]) for step, row in zip(steps, log, strict=True) if loss in row
    ]
    expected = [(step, row[evaluated]) for step, row in zip(steps, log, strict=True) if evaluated in row]
    assert points(KINDS["comparison"](both), 1) == expected
    assert points(draw_metric(both, evaluated)) == expected


def test_the_pictures_of_trackers_files_show_the_numbers_that_were_logged():
    both = drawing(load_run(FOREIGN_LOGS / "loop.wandb"))
    steps = range(0, 40, 2)
    assert points(KINDS["loss_per_step"](both)) == [(step, 4.0 / (step + 1)) for step in steps]
    assert points(draw_metric(both, "reward.mean")) == [(step, step / 7) for step in steps]
    assert points(draw_metric(both, "eval_loss")) == [(step, 5.0 / (step + 1)) for step in (0, 10, 20, 30)]
    both = drawing(load_run(FOREIGN_LOGS / "summary_writer.tfevents"))
    losses = points(KINDS["loss_per_step"](both))
    assert losses == [(step, pytest.approx(5.0 / step, rel=1e-7)) for step in range(1, 9)]
    margins = points(draw_metric(both, "rewards/margins"))
    assert margins == [(step, pytest.approx(0.1 * step, rel=1e-7)) for step in range(1, 9) if step != 3]  # a NaN


def test_every_kind_of_record_has_scalars_and_only_ours_have_units(tmp_path):
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.append(RunRecord(run_name="dpo"))
    for step in (1, 2):
        journal.append(StepRecord(iter=step, loss=1.0 / step, lr=1e-3, extra={"rewards/chosen": -0.5 * step}))
        journal.append(MeasurementRecord(iter=step, source="gradients", metrics={"grad_norm/layer_03": 0.25 * step}))
    journal.append(EvaluationRecord(iter=2, metrics={"eval_loss": 0.75, "eval_rewards/margins": 0.125, "eval_f1": 0.5}))
    journal.close()
    run = load_run(tmp_path / "run")
    assert {"rewards/chosen", "grad_norm/layer_03", "eval_rewards/margins", "lr"} <= set(scalar_names([run]))
    assert other_scalars(run) == ["rewards/chosen", "eval_rewards/margins", "eval_f1"]
    metrics = ["rewards/chosen", "grad_norm/layer_03", "eval_rewards/margins", "learning_rate", "accuracy", "../up"]
    with pytest.raises(UserError, match="metric 'accuracy' is unknown"):
        plot_runs([run], tmp_path / "plots", metrics=metrics)
    found = plot_runs([run], tmp_path / "plots", metrics=metrics[:4])
    names = ["rewards-chosen", "grad_norm-layer_03", "eval_rewards-margins", "learning_rate"]
    assert [path.name for path in found.paths] == [f"{name}.png" for name in names]
    shown = {name: draw_metric(drawing(run), name) for name in ("rewards/chosen", "grad_norm/layer_03", "lr", "loss")}
    assert points(shown["rewards/chosen"]) == [(1, -0.5), (2, -1.0)]
    assert points(shown["grad_norm/layer_03"]) == [(1, 0.25), (2, 0.5)]
    assert [figure.axes[0].get_ylabel() for figure in shown.values()] == [*list(shown)[:2], "learning rate", "loss"]


def test_metrics_and_kinds_are_drawn_together_where_both_are_named(tmp_path):
    found = plot_runs([load_run(TRL)], tmp_path, ["validation"], metrics=["entropy"])
    assert [path.name for path in found.paths] == ["validation.png", "entropy.png"]


def test_a_run_that_has_not_logged_it_is_named_as_such():
    both = drawing(load_run(TRL), load_run(FOREIGN_LOGS / "loop.wandb"))
    (legend,) = draw_metric(both, "entropy").legends
    assert [text.get_text() for text in legend.get_texts()] == ["trl_sft_trainer_state", "loop (not logged)"]
