"""What other callbacks publish reaches the trackers that the Trainer has open, beside its own scalars."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from test_logger import HOSTILE, hparams_tab
from tracker_files import STEP, read_tensorboard, read_wandb, scalars, texts, wandb_offline
from transformers import TrainerCallback, TrainerState
from transformers.integrations import TensorBoardCallback

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.callbacks.trackers import TrackerCallback
from hf_difflm.callbacks.tracking.wandb_names import open_wandb_run
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.journal.schema import EventRecord, MeasurementRecord, SampleRecord

PROMPTS = ("", HOSTILE)


class Publisher(TrainerCallback):
    """Publishes at each logging step a measurement, at steps 2 and 4 samples, at step 4 an event; and hears the rest."""

    def __init__(self) -> None:
        self.measured: list[MeasurementRecord] = []
        self.left_out: list[tuple[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        reports_of(state).listen(to_left_out=lambda what, seconds: self.left_out.append((what, seconds)))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        if step in (2, 4):
            for prompt in PROMPTS:
                extra = {"mode": "greedy", "distinct_2": 0.25 * step} if prompt else {"mode": "greedy"}
                record = SampleRecord(iter=step, prompt=prompt, text=f"after {step}: {prompt}", extra=extra)
                reports_of(state).publish(record)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        step = state.global_step
        record = MeasurementRecord(
            iter=step,
            source="gradients",
            metrics={"grad_norm/head": 0.5 + step, "grad_norm/none": None, "grad_norm/nan": float("nan")},
            histograms={"weights/head": {"low": -1.0, "high": 1.0, "counts": [step, 0, 2, 5]}, "empty": None},
        )
        self.measured.append(record)
        reports_of(state).publish(record)
        if step == 4:
            reports_of(state).publish(EventRecord(event="loss_spike", iter=step, message=f"loss {HOSTILE}"))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    yield from wandb_offline(monkeypatch, tmp_path)


def losses(trainer: Any) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def test_tensorboard_has_the_trainers_own_data_and_ours_in_one_folder(any_trainer, tmp_path):
    publisher = Publisher()
    trainer = any_trainer(publisher, TrackerCallback(), report_to=["tensorboard"])
    trainer.train()
    files = list((tmp_path / "out").rglob("*tfevents*"))
    assert len(files) == 1
    events = read_tensorboard(files[0].parent)
    assert scalars(events, "train/loss") == [(step, pytest.approx(loss)) for step, loss in losses(trainer)]
    assert scalars(events, "grad_norm/head") == [(2, 2.5), (4, 4.5), (6, 6.5)]
    assert "grad_norm/none" not in events.Tags()["scalars"]
    histograms = events.Histograms("weights/head")
    assert [(event.step, event.histogram_value.bucket) for event in histograms] == [
        (step, [step, 0, 2, 5]) for step in (2, 4, 6)
    ]
    (first, second) = texts(events, "samples/1")
    assert (first[0], second[0]) == (2, 4)
    assert "prompt:\n\n    a $x_1$ <script>" in second[1]
    assert "text:\n\n    after 4: a $x_1$ <script>" in second[1]
    assert second[1].endswith("mode:\n\n    greedy\n\ndistinct_2: 1")
    assert texts(events, "events/loss_spike")[0][1].startswith("    loss a $x_1$ <script>")
    # TensorBoard's own plug-in finds the settings, and compares the runs by the last values of all scalars.
    settings, metrics = hparams_tab(tmp_path / "out")
    (found,) = settings.values()
    assert found["learning_rate"] == 0.01
    assert found["max_steps"] == 6
    assert {"train/loss", "grad_norm/head"} <= metrics
    assert "_hparams_/session_end_info" in events.PluginTagToContent("hparams")


def test_wandb_has_the_trainers_own_data_and_ours_on_one_axis(any_trainer, offline):
    publisher = Publisher()
    trainer = any_trainer(publisher, TrackerCallback(), report_to=["wandb"], run_name="tracked")
    trainer.train()
    run = read_wandb(offline)
    assert (run.header.project, run.header.display_name) == ("tried", "tracked")
    assert run.axes["*"] == STEP
    assert run.curve("train/loss") == losses(trainer)
    assert run.curve("grad_norm/head") == [(2, 2.5), (4, 4.5), (6, 6.5)]
    assert not run.curve("grad_norm/none")
    assert run.curve("weights/head.values") == [(step, [step, 0, 2, 5]) for step in (2, 4, 6)]
    assert run.curve("weights/head.bins")[0][1] == [-1.0, -0.5, 0.0, 0.5, 1.0]
    tables = [(row[STEP], run.table(row, "samples")) for row in run.history if "samples.path" in row]
    assert [step for step, _ in tables] == [2, 4]
    assert tables[1][1]["columns"] == ["step", "prompt", "text", "mode", "distinct_2"]
    empty, hostile = tables[1][1]["data"]
    assert empty == [4, "", "after 4: ", "greedy", None]
    assert hostile[1].startswith("a $x_1$ <script>")
    assert hostile[2] == f"after 4: {hostile[1]}"
    assert hostile[4] == 1.0
    ((title, message),) = run.alerts
    assert title == "loss_spike"
    assert message.startswith("loss a $x_1$")
    assert run.config["max_steps"] == 6
    # Each table is time that was no training.
    assert [what for what, _ in publisher.left_out] == ["trackers", "trackers"]
    assert all(seconds > 0 for _, seconds in publisher.left_out)


def test_a_checkpoint_is_an_artifact_with_its_step_and_the_best_is_named(make_trainer, offline):
    publisher = Publisher()
    trainer = make_trainer(
        publisher,
        TrackerCallback(log_checkpoints=True),
        report_to=["wandb"],
        max_steps=4,
        learning_rate=0.1,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        metric_for_best_model="eval_loss",
    )
    trainer.train()
    wandb = sys.modules["wandb"]
    name = f"model-{wandb.run.id}"
    artifacts = [one for one in read_wandb(offline).artifacts if one.type == "model"]
    assert [one.name for one in artifacts] == [name, name]
    best = [step == trainer.state.best_global_step for step in (2, 4)]
    assert True in best
    expected = [
        {f"step-{step}", "latest", *(["best"] if step == trainer.state.best_global_step or step == 2 else [])}
        for step in (2, 4)
    ]
    assert [set(one.aliases) | {"latest"} for one in artifacts] == expected
    for one, step in zip(artifacts, (2, 4), strict=True):
        folder = Path(trainer.args.output_dir) / f"checkpoint-{step}"
        on_disk = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
        assert {entry.path: entry.size for entry in one.manifest.contents} == on_disk
    assert [what for what, _ in publisher.left_out].count("artifact") == 2


def test_without_a_tracker_nothing_happens(make_trainer, tmp_path, caplog, monkeypatch):
    for module in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, module, None)
    make_trainer(Publisher(), TrackerCallback(log_checkpoints=True), save_strategy="steps", save_steps=3).train()
    assert not caplog.records
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint-3", "checkpoint-6"]


def test_the_run_log_and_the_trackers_have_the_same_measurements(make_trainer, tmp_path):
    publisher = Publisher()
    make_trainer(publisher, RunLogCallback(), TrackerCallback(), report_to=["tensorboard"]).train()
    measured = load_run(tmp_path / "out").measurements
    (file,) = (tmp_path / "out").rglob("*tfevents*")
    events = read_tensorboard(file.parent)
    assert [(one.iter, one.metrics["grad_norm/head"]) for one in measured] == scalars(events, "grad_norm/head")


def test_the_writer_is_that_of_the_own_trainer_where_several_are_alive(make_trainer, tmp_path):
    others = [make_trainer(TensorBoardCallback(), output_dir=str(tmp_path / f"other{n}")) for n in range(2)]
    trainer = make_trainer(Publisher(), TrackerCallback(), report_to=["tensorboard"], output_dir=str(tmp_path / "own"))
    trainer.train()
    assert not list(tmp_path.glob("other*/**/*tfevents*"))
    (file,) = (tmp_path / "own").rglob("*tfevents*")
    assert scalars(read_tensorboard(file.parent), "grad_norm/head")
    del others


def test_a_writer_that_was_given_is_used(make_trainer, tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "mine"))
    make_trainer(Publisher(), TrackerCallback(tb_writer=writer)).train()
    writer.close()
    assert scalars(read_tensorboard(tmp_path / "mine"), "grad_norm/head") == [(2, 2.5), (4, 4.5), (6, 6.5)]


def test_a_trainer_whose_writer_is_not_found_gets_one_in_a_folder_of_its_own(make_trainer, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_difflm.callbacks.trackers.tensorboard_callback", lambda: None)
    make_trainer(Publisher(), TrackerCallback(), report_to=["tensorboard"]).train()
    ours = read_tensorboard(tmp_path / "out" / "runs" / "hf_difflm")
    assert scalars(ours, "grad_norm/head") == [(2, 2.5), (4, 4.5), (6, 6.5)]
    assert "train/loss" not in ours.Tags()["scalars"]


def test_what_is_published_after_the_end_is_still_written(make_trainer, tmp_path):
    trainer = make_trainer(TrackerCallback(), report_to=["tensorboard"])
    trainer.train()
    reports_of(trainer.state).publish(MeasurementRecord(iter=6, source="late", metrics={"late/number": 3.5}))
    reports_of(trainer.state).publish(SampleRecord(iter=6, text="late"))
    (folder,) = {path.parent for path in (tmp_path / "out").rglob("*tfevents*")}
    events = read_tensorboard(folder)
    assert scalars(events, "late/number") == [(6, 3.5)]
    assert "    late" in texts(events, "samples/0")[0][1]


def test_an_open_wandb_run_is_written_to_without_the_trainers_own_callback(make_trainer, offline):
    import wandb

    wandb.init(project="mine")
    make_trainer(Publisher(), TrackerCallback()).train()
    run = read_wandb(offline)
    assert run.axes["*"] == STEP
    assert run.curve("grad_norm/head") == [(2, 2.5), (4, 4.5), (6, 6.5)]


def test_the_names_of_the_wandb_run_are_those_given_and_the_environment_stays(make_trainer, offline):
    before = dict(os.environ)
    trainer = make_trainer(report_to=["wandb"], max_steps=2, run_name="in the log")
    assert open_wandb_run(trainer.args, project="p", entity="team", run_name="in wandb")
    assert not open_wandb_run(trainer.args, project="other")  # one is open
    trainer.train()
    assert {name: os.environ.get(name) for name in before} == before
    assert trainer.args.run_name == "in the log"
    run = read_wandb(offline)
    assert (run.header.project, run.header.entity, run.header.display_name) == ("p", "team", "in wandb")
    assert run.curve("train/loss") == losses(trainer)
    assert run.config["max_steps"] == 2


def test_no_wandb_run_is_opened_unasked(make_trainer, monkeypatch):
    assert not open_wandb_run(make_trainer(report_to=["tensorboard"]).args, project="p")
    assert not open_wandb_run(make_trainer(report_to=[]).args)


def test_a_run_that_is_gone_on_with_keeps_its_id_whatever_wandb_has_read_before(make_trainer, offline, monkeypatch):
    import wandb

    wandb.setup()
    monkeypatch.setenv("WANDB_RUN_ID", "before77")
    monkeypatch.setenv("WANDB_RESUME", "allow")
    trainer = make_trainer(report_to=["wandb"], max_steps=2)
    assert open_wandb_run(trainer.args, project="p")
    trainer.train()
    assert read_wandb(offline).header.run_id == "before77"


def test_a_run_that_wandb_refuses_is_a_sentence(make_trainer, offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(offline / "none"))
    args = make_trainer(report_to=["wandb"]).args
    with pytest.raises(
        UserError, match=r"Weights & Biases cannot begin the run .*; run wandb login, or set WANDB_MODE"
    ):
        open_wandb_run(args, project="p")


def test_with_wandb_switched_off_training_goes_on(make_trainer, offline, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    callbacks = [Publisher(), TrackerCallback(log_checkpoints=True)]
    make_trainer(*callbacks, report_to=["wandb"], save_strategy="steps", save_steps=3).train()
    assert not list(offline.glob("wandb/offline-run-*"))


def test_other_processes_than_world_zero_write_nothing(make_trainer, tmp_path):
    tracker = TrackerCallback(log_checkpoints=True)
    trainer = make_trainer(Publisher(), tracker, report_to=["tensorboard"], save_strategy="steps", save_steps=3)
    for hook in ("on_train_begin", "on_step_begin", "on_log", "on_save", "on_train_end"):
        state = TrainerState(is_world_process_zero=False, global_step=3)
        getattr(tracker, hook)(trainer.args, state, trainer.control, logs={"train_runtime": 1.0})
        reports_of(state).publish(SampleRecord(iter=3, text="x"))
    assert not list(tmp_path.rglob("*tfevents*"))
