"""A script that is run twice: each run has a log of its own, and a resume goes on with the run that it resumes."""

from __future__ import annotations

import json

import pytest

from hf_difflm.callbacks import DashboardCallback, RunLogCallback
from hf_difflm.callbacks.text_log import TextLogCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import Journal, load_run, load_runs
from hf_difflm.runs.journal.schema import StepRecord


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".jsonl", ".log"))


def test_a_script_run_three_times_leaves_three_runs_side_by_side_and_the_folder_is_the_newest(make_trainer, tmp_path):
    for steps in (2, 4, 6):
        make_trainer(
            RunLogCallback(experiment_name="exp"), TextLogCallback(), DashboardCallback(2), max_steps=steps
        ).train()
    out = tmp_path / "out"
    newest = ["journal.jsonl", "train.log", "tiny-3.json", "exp-3_metrics.json"]
    first = ["tiny.jsonl", "tiny.log", "tiny.json", "exp_metrics.json"]
    second = ["tiny-2.jsonl", "tiny-2.log", "tiny-2.json", "exp-2_metrics.json"]
    assert files(out) == sorted([*newest, *first, *second])
    runs, problems = load_runs([tmp_path])
    assert not problems
    assert {run.name: int(run.column("iter")[-1]) for run in runs} == {"tiny": 2, "tiny-2": 4, "tiny-3": 6}
    assert len({run.header.run_id for run in runs}) == 3
    assert (load_run(out).name, len(load_runs([out])[0]), len(load_runs([out], earlier=True)[0])) == ("tiny-3", 1, 3)
    for name, steps in (("tiny", 2), ("tiny-2", 4), ("tiny-3", 6)):
        assert json.loads((out / f"{name}.json").read_text())["summary"]["final_iter"] == steps
    for folder, steps in (("tiny_dashboard", 2), ("tiny-2_dashboard", 4), ("dashboard", 6)):
        assert sorted(path.name for path in (out / folder).glob("training_step_*.png"))[-1].endswith(f"0{steps}.png")
    assert [(out / name).read_text().count("started at") for name in ("tiny.log", "tiny-2.log", "train.log")] == [1] * 3


def test_without_a_name_a_run_is_called_after_its_output_folder(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), run_name=None, max_steps=2).train()
    make_trainer(RunLogCallback(), run_name=None, max_steps=2).train()
    assert files(tmp_path / "out") == sorted(
        ["journal.jsonl", "out-2.json", "out-2_metrics.json", "out.json", "out.jsonl", "out_metrics.json"]
    )


def test_a_trainer_that_trains_twice_has_two_runs(make_trainer, tmp_path):
    trainer = make_trainer(RunLogCallback())
    trainer.train()
    trainer.train()
    assert [run.status for run in load_runs([tmp_path])[0]] == ["completed"] * 2


def test_a_resume_goes_on_with_the_run_that_saved_the_checkpoint(make_trainer, tmp_path, caplog):
    saves = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 2}
    make_trainer(RunLogCallback(), DashboardCallback(2), max_steps=4, **saves).train()
    make_trainer(RunLogCallback(), DashboardCallback(2), max_steps=2, **saves).train()
    out = tmp_path / "out"
    make_trainer(RunLogCallback(), DashboardCallback(2), max_steps=6, **saves).train(resume_from_checkpoint=True)
    run = load_run(out)
    assert (run.name, [event.event for event in run.events]) == (
        "tiny",
        ["started", "completed", "resumed", "completed"],
    )
    assert run.column("iter").tolist() == [2, 4, 6]
    assert "the checkpoint at step 4 is of the run 'tiny'" in caplog.text
    assert sorted(load_run(path).name for path in out.glob("tiny*.jsonl")) == ["tiny-2"]
    assert (out / "dashboard" / "training_step_000004.png").exists()
    assert (out / "tiny-2_dashboard" / "training_latest.png").exists()
    # Both have saved one at step 2: it is of the newest that did.
    make_trainer(RunLogCallback(), max_steps=6, **saves).train(resume_from_checkpoint=str(out / "checkpoint-2"))
    assert load_run(out).name == "tiny"


def test_what_is_refused_names_the_arguments_that_help(make_trainer, tmp_path):
    (tmp_path / "out").mkdir()
    journal = tmp_path / "out" / "journal.jsonl"
    Journal(journal).append(StepRecord(iter=1))
    with pytest.raises(UserError, match=r"holds no run.* overwrite=True, .* resume=True, or choose another log_dir"):
        make_trainer(RunLogCallback()).train()
    assert load_runs([tmp_path])[0] == []
    make_trainer(RunLogCallback(overwrite=True)).train()
    assert load_run(journal).status == "completed"


def test_overwriting_the_newest_run_leaves_the_earlier_ones(make_trainer, tmp_path):
    for overwrite, steps in ((False, 2), (False, 4), (True, 6)):
        make_trainer(RunLogCallback(overwrite=overwrite), max_steps=steps).train()
    runs, _ = load_runs([tmp_path])
    assert {run.name: int(run.column("iter")[-1]) for run in runs} == {"tiny": 2, "tiny-2": 6}
