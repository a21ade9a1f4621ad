"""Names, places, single writers and logs of evaluations alone."""

from __future__ import annotations

import json

import pytest
from transformers import TrainerCallback

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import Journal, load_run


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in (".json", ".jsonl"))


@pytest.mark.parametrize(
    ("log", "arguments", "name", "metrics"),
    [
        ({}, {"run_name": "args"}, "args", "args"),
        ({"run_name": "given"}, {"run_name": "args"}, "given", "given"),
        ({"experiment_name": "exp"}, {"run_name": None}, "exp", "exp"),
        ({"experiment_name": "exp"}, {"run_name": "args"}, "args", "exp"),
        ({"experiment_name": "exp", "run_name": "given"}, {}, "given", "exp"),
    ],
)
def test_the_run_name_names_the_document_and_the_experiment_the_metrics_each_stands_in_for_the_other(
    make_trainer, tmp_path, log, arguments, name, metrics
):
    make_trainer(RunLogCallback(**log), max_steps=1, **arguments).train()
    assert files(tmp_path / "out") == sorted(["journal.jsonl", f"{name}.json", f"{metrics}_metrics.json"])
    run = load_run(tmp_path / "out")
    assert (run.name, run.experiment_name) == (name, metrics)
    assert json.loads((tmp_path / "out" / f"{metrics}_metrics.json").read_text())["experiment_name"] == metrics


def test_overwriting_removes_both_files_of_the_former_run_and_keeps_others(make_trainer, tmp_path):
    make_trainer(RunLogCallback(experiment_name="old exp"), max_steps=1).train()
    (tmp_path / "out" / "notes.json").write_text("{}")
    make_trainer(RunLogCallback(overwrite=True, run_name="new"), max_steps=1).train()
    assert files(tmp_path / "out") == ["journal.jsonl", "new.json", "new_metrics.json", "notes.json"]


def test_the_metrics_file_never_replaces_one_that_is_not_its_own(make_trainer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny_metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"tiny_metrics.json' exists"):
        make_trainer(RunLogCallback(), max_steps=1).train()


def test_a_step_knows_its_epoch_and_the_metrics_file_the_mean_of_each(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), max_steps=-1, num_train_epochs=2, logging_steps=8).train()
    run = load_run(tmp_path / "out")
    assert run.column("epoch").tolist() == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0])
    metrics = json.loads((tmp_path / "out" / "tiny_metrics.json").read_text())
    assert metrics["epochs"] == [1, 2]
    assert metrics["epoch_losses"] == pytest.approx(run.column("loss").reshape(2, 4).mean(1).tolist())


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_is_writing_is_refused_and_left_alone(make_trainer, tmp_path, resume, overwrite):
    if resume and overwrite:
        with pytest.raises(UserError, match="choose one"):
            RunLogCallback(resume=resume, overwrite=overwrite)
        return
    make_trainer(RunLogCallback(), max_steps=1).train()
    before = (tmp_path / "out" / "journal.jsonl").read_bytes()
    living = Journal(tmp_path / "out" / "journal.jsonl")
    living.open()
    with pytest.raises(UserError, match="another process is writing it"):
        make_trainer(RunLogCallback(resume=resume, overwrite=overwrite), max_steps=1).train()
    living.close()
    assert (tmp_path / "out" / "journal.jsonl").read_bytes() == before
    assert (tmp_path / "out" / "tiny.json").exists()


def test_the_journal_is_free_again_when_the_training_has_ended(make_trainer, tmp_path):
    make_trainer(RunLogCallback(), max_steps=1).train()
    journal = Journal(tmp_path / "out" / "journal.jsonl")
    journal.open()
    journal.close()


def test_what_a_killed_rebuild_left_is_cleared_away(make_trainer, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".tiny-abcdefgh.json").write_text("{half")
    make_trainer(RunLogCallback(), max_steps=1).train()
    assert files(tmp_path / "out") == ["journal.jsonl", "tiny.json", "tiny_metrics.json"]


def test_the_parent_run_is_written_where_it_is_given_and_only_there(make_trainer, tmp_path):
    make_trainer(RunLogCallback(header={"parent_run": "runs/before"}), max_steps=1).train()
    assert load_run(tmp_path / "out").parent_run == "runs/before"
    assert json.loads((tmp_path / "out" / "tiny.json").read_text())["parent_run"] == "runs/before"
    make_trainer(RunLogCallback(overwrite=True), max_steps=1).train()
    assert load_run(tmp_path / "out").parent_run is None
    assert '"parent_run"' not in (tmp_path / "out" / "journal.jsonl").read_text()


def test_a_log_of_evaluations_alone_has_no_steps_but_knows_what_training_was_like_between_them(make_trainer, tmp_path):
    arguments = {"eval_strategy": "steps", "eval_steps": 3, "logging_steps": 1}
    make_trainer(RunLogCallback(log_dir=tmp_path / "all"), **arguments).train()
    make_trainer(RunLogCallback(log_dir=tmp_path / "few", log_eval_only=True), **arguments).train()
    every, few = load_run(tmp_path / "all"), load_run(tmp_path / "few")
    assert '"type":"step"' not in (tmp_path / "few" / "journal.jsonl").read_text()
    document = json.loads((tmp_path / "few" / "tiny.json").read_text())
    assert document["training_iterations"] == []
    expected = json.loads((tmp_path / "all" / "tiny.json").read_text())
    for row, other in zip(document["eval_steps"], expected["eval_steps"], strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"])
        assert (row["val_loss"], row["lr"], row["iter"]) == (other["val_loss"], other["lr"], other["iter"])
    summary, whole = document["summary"], expected["summary"]
    for key in ("total_iterations", "final_iter", "best_val_loss", "best_val_iter", "total_eval_steps", "tokens_seen"):
        assert summary[key] == whole[key], key
    assert summary["final_train_loss"] == pytest.approx(document["eval_steps"][-1]["train_loss"])
    assert summary["avg_time_ms"] > 0
    assert few.tokens_seen == every.tokens_seen


def test_deleting_the_journal_does_not_stop_the_training(make_trainer, tmp_path, caplog):
    class Delete(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            (tmp_path / "out" / "journal.jsonl").unlink(missing_ok=True)

    trainer = make_trainer(RunLogCallback(log_save_interval=1), Delete(), logging_steps=1)
    trainer.train()
    assert trainer.state.global_step == 6
    assert caplog.text.count("training goes on without it") == 1
