"""The file of losses has exactly its keys, and its numbers follow from the steps."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.derived.metrics import build_metrics
from hf_difflm.runs.derived.rebuild import write_derived
from hf_difflm.runs.journal.atomic_files import metrics_name
from hf_difflm.runs.journal.schema import RunRecord, StepRecord

KEYS = ["model_type", "experiment_name", "start_time", "end_time", "epochs", "epoch_losses", "steps", "step_losses"]


def run_of(folder, rows, **header):
    journal = Journal(folder / "journal.jsonl")
    journal.append(RunRecord(run_name="a", **header))
    for row in rows:
        journal.append(StepRecord(**row))
    journal.close()
    return load_run(folder)


def test_its_keys_are_those_and_no_others(write_run):
    run = write_run("demo", objective="mdlm")
    metrics = build_metrics(run)
    assert list(metrics) == KEYS
    assert (metrics["model_type"], metrics["experiment_name"]) == ("MDLM", "demo")
    assert metrics["start_time"] == run.start_time
    assert metrics["end_time"] == run.end_time
    assert metrics["steps"] == list(range(1, 21))
    assert metrics["step_losses"] == run.column("loss").tolist()
    assert metrics["epochs"] == metrics["epoch_losses"] == []  # this run does not say where its epochs end


@pytest.mark.parametrize(
    ("objective", "model", "kind"), [("ar", {}, "AR"), (None, {"type": "gpt2"}, "GPT2"), (None, {}, "UNKNOWN")]
)
def test_the_model_type_is_the_objective_or_else_the_model(write_run, objective, model, kind):
    assert build_metrics(write_run(objective=objective, model=model))["model_type"] == kind


@given(st.lists(st.floats(0, 10), min_size=1, max_size=40), st.integers(1, 7))
def test_an_epoch_loss_is_the_mean_over_its_steps_the_last_one_over_what_is_there(tmp_path_factory, losses, per_epoch):
    epoch, rows = 0.0, []
    for step, loss in enumerate(losses, start=1):
        epoch += 1 / per_epoch  # rounding and all, as a Trainer counts
        rows.append({"iter": step, "loss": loss, "epoch": epoch})
    metrics = build_metrics(run_of(tmp_path_factory.mktemp("run"), rows))
    parts = [losses[start : start + per_epoch] for start in range(0, len(losses), per_epoch)]
    assert metrics["epochs"] == list(range(1, len(parts) + 1))
    assert metrics["epoch_losses"] == pytest.approx([sum(part) / len(part) for part in parts])


def test_rows_of_several_steps_weigh_as_many_and_unknown_losses_nothing(tmp_path):
    rows = [
        {"iter": 3, "steps": 3, "loss": 1.0, "epoch": 0.6},
        {"iter": 4, "loss": float("nan"), "epoch": 0.8},
        {"iter": 5, "loss": 5.0, "epoch": 1.0},
    ]
    metrics = build_metrics(run_of(tmp_path, rows))
    assert metrics["epoch_losses"] == [2.0]
    assert metrics["step_losses"] == [1.0, None, 5.0]


def test_the_file_is_written_beside_the_document_and_named_by_its_experiment(tmp_path):
    run = run_of(tmp_path, [{"iter": 1, "loss": 1.0}], experiment_name="my exp")
    _, path = write_derived(run.path)
    assert path == tmp_path / "my-exp_metrics.json"
    assert json.loads(path.read_text()) == build_metrics(run)
    assert build_metrics(run)["experiment_name"] == "my exp"


@given(st.text(max_size=300))
def test_any_experiment_name_gives_one_plain_file_name(name):
    found = metrics_name(name)
    assert found.endswith("_metrics.json")
    assert not set(found) & set('/\\:*?"<>|\0\n')
    assert len(found) <= 140
