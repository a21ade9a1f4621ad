"""A dashboard in every kind of Trainer: it is there in the end, it changes nothing, and it leaves nothing behind."""

from __future__ import annotations

import gc
import json
import logging
import threading

import pytest
import torch
from transformers import TrainerCallback

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.dashboard import DashboardCallback
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.dashboard.figure import draw_dashboard
from hf_difflm.runs.journal.schema import SampleRecord


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_the_last_picture_of_any_trainer_is_that_of_its_whole_run(any_trainer, tmp_path, caplog):
    dashboard = DashboardCallback(viz_interval=2)
    any_trainer(RunLogCallback(run_name="tiny"), dashboard).train()
    folder = tmp_path / "out" / "dashboard"
    run = load_run(tmp_path / "out")
    assert run.status == "completed"
    drawn = (folder / "training_latest.png").read_bytes()
    assert drawn == (folder / "training_step_000006.png").read_bytes()
    assert drawn == draw_dashboard(run, tmp_path / "expected.png").read_bytes()
    rows = json.loads((folder / "metrics_history.json").read_text())
    assert [row["loss"] for row in rows] == run.column("loss").tolist()
    assert dashboard.drawing_cpu_seconds > 0.1
    assert not [record for record in caplog.records if record.name.startswith("hf_difflm")]


def test_a_run_log_that_comes_later_is_drawn_to_its_end_too(make_trainer, tmp_path):
    dashboard = DashboardCallback(viz_interval=2)
    make_trainer(dashboard, RunLogCallback()).train()
    dashboard.close()
    drawn = (tmp_path / "out" / "dashboard" / "training_latest.png").read_bytes()
    assert load_run(tmp_path / "out").status == "completed"
    assert drawn == draw_dashboard(load_run(tmp_path / "out"), tmp_path / "expected.png").read_bytes()


def test_weights_are_the_same_with_and_without(any_trainer, tmp_path):
    plain = any_trainer(RunLogCallback(log_dir=tmp_path / "plain"))
    plain.train()
    drawn = any_trainer(RunLogCallback(log_dir=tmp_path / "drawn"), DashboardCallback(1, folder=tmp_path / "pictures"))
    drawn.train()
    assert (tmp_path / "pictures" / "training_latest.png").exists()
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(drawn).items())


def test_without_a_run_log_it_warns_once_and_training_goes_on(make_trainer, tmp_path, caplog):
    trainer = make_trainer(DashboardCallback(1))
    trainer.train()
    assert trainer.state.global_step == 6
    warnings = [record.getMessage() for record in caplog.records if record.name == "hf_difflm.callbacks.dashboard"]
    assert warnings == ["DashboardCallback draws the run log: add a RunLogCallback; training goes on without pictures"]
    assert not (tmp_path / "out" / "dashboard").exists()


class Sees(TrainerCallback):
    """Calls a function after a step, and keeps the drawing process of the dashboard."""

    def __init__(self, dashboard, step, act):
        self.dashboard, self.step, self.act, self.process = dashboard, step, act, None

    def on_step_end(self, args, state, control, **kwargs):
        self.process = self.dashboard._process._process
        if state.global_step == self.step:
            self.act(self.process)


def test_a_drawing_process_that_dies_is_one_warning_and_training_goes_on(make_trainer, caplog):
    dashboard = DashboardCallback(1)

    def kill(process):
        process.kill()
        process.wait()

    trainer = make_trainer(RunLogCallback(), dashboard, Sees(dashboard, 2, kill), max_steps=20)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert trainer.state.global_step == 20
    warnings = [record.getMessage() for record in caplog.records if "dashboard" in record.getMessage()]
    assert len(warnings) == 1
    assert "ended with code -9" in warnings[0]


def test_a_training_that_fails_leaves_no_process_behind(make_trainer):
    dashboard = DashboardCallback(1)

    def fail(process):
        raise ValueError("a bad batch")

    sees = Sees(dashboard, 3, fail)
    trainer = make_trainer(RunLogCallback(), dashboard, sees)
    with pytest.raises(ValueError, match="a bad batch"):
        trainer.train()
    assert sees.process.poll() is None
    process = sees.process
    del dashboard, trainer, sees
    gc.collect()
    assert process.poll() is not None


def test_the_next_training_ends_the_process_of_one_that_failed(make_trainer, tmp_path):
    dashboard = DashboardCallback(2)
    failures = [ValueError("a bad batch")]

    def fail(process):
        if failures:
            raise failures.pop()

    sees = Sees(dashboard, 3, fail)
    log = RunLogCallback(overwrite=True)
    trainer = make_trainer(log, dashboard, sees)
    with pytest.raises(ValueError, match="a bad batch"):
        trainer.train()
    log.close("failed")
    first = sees.process
    trainer.train()
    assert first.poll() is not None
    assert sees.process is not first
    assert sees.process.poll() == 0
    assert (tmp_path / "out" / "dashboard" / "training_step_000006.png").exists()


def test_an_interval_below_one_is_bad_input():
    with pytest.raises(UserError, match="viz_interval is 0"):
        DashboardCallback(0)


def test_a_training_in_a_thread_has_its_last_picture_too(make_trainer, tmp_path):
    dashboard = DashboardCallback(2)
    trainer = make_trainer(dashboard, RunLogCallback(run_name="tiny"))
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    dashboard.close()
    assert (tmp_path / "out" / "dashboard" / "training_step_000006.png").exists()


class Writes(TrainerCallback):
    """Publishes two texts after each step."""

    def on_step_end(self, args, state, control, **kwargs):
        for place in range(2):
            record = SampleRecord(iter=state.global_step, text=f"text {place} of step {state.global_step}")
            reports_of(state).publish(record)


@pytest.mark.parametrize("shown", [0, 8])
def test_so_many_samples_as_are_asked_for_stand_in_the_picture(make_trainer, tmp_path, shown):
    make_trainer(Writes(), RunLogCallback(), DashboardCallback(6, display_samples=shown)).train()
    run = load_run(tmp_path / "out")
    assert len(run.samples) == 12
    drawn = (tmp_path / "out" / "dashboard" / "training_latest.png").read_bytes()
    assert drawn == draw_dashboard(run, tmp_path / "asked.png", shown).read_bytes()
    assert drawn != draw_dashboard(run, tmp_path / "default.png").read_bytes()


@pytest.mark.parametrize("shown", [-1, 11])
def test_more_samples_than_the_table_has_room_for_are_refused_at_once(shown):
    with pytest.raises(UserError, match=f"display_samples is {shown}; give a number from 0 to 10"):
        DashboardCallback(display_samples=shown)
