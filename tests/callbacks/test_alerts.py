"""What is an alarm, what is none, and what an alert does to a training."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_difflm.callbacks import AlertCallback, RunLogCallback
from hf_difflm.callbacks.measuring.alarms import GradientAlarm, LossAlarm, PlateauAlarm, judge_sample, judge_waiting
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run
from hf_difflm.runs.journal.schema import MeasurementRecord, SampleRecord


def judged(alarm, values):
    return [found.kind for step, value in enumerate(values, 1) if (found := alarm.judge(step, value))]


# ---- single numbers ----


def test_a_noisy_falling_loss_is_no_alarm():
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0)).mul(0.1).tolist()
    assert judged(LossAlarm(), [5.5 * math.exp(-step / 300) + 2 + noise[step] for step in range(2000)]) == []


@given(level=st.floats(0.01, 100), spread=st.floats(0, 0.02), place=st.integers(20, 80))
def test_one_spike_is_one_alarm_at_any_scale(level, spread, place):
    values = [level * (1 + spread * (-1) ** step) for step in range(100)]
    values[place] = 1.5 * level
    assert judged(LossAlarm(), values) == ["loss_spike"]


def test_the_first_steps_and_a_constant_loss_are_no_alarm_and_a_loss_that_is_no_number_is_one():
    assert judged(LossAlarm(), [5.0] * 10 + [50.0] + [5.0] * 5) == []
    assert judged(LossAlarm(), [1.0] * 200) == []
    assert judged(LossAlarm(), [math.nan]) == ["loss_spike"]


def test_gradients_that_explode_vanish_or_are_no_numbers():
    calm = [1.0, 1.5] * 20
    assert judged(GradientAlarm(), calm) == []
    assert judged(GradientAlarm(), [*calm, 20.0]) == ["exploding_gradients"]
    assert judged(GradientAlarm(), [*calm, math.inf]) == ["exploding_gradients"]
    assert judged(GradientAlarm(), [*calm, 1e-5]) == ["vanishing_gradients"]
    assert judged(GradientAlarm(), [0.0]) == ["vanishing_gradients"]


@pytest.mark.parametrize("steps", [50, 400])
def test_a_loss_that_rests_at_the_entropy_for_a_tenth_is_an_alarm_and_one_that_passes_is_none(steps):
    window = max(20, steps // 10)
    noise = torch.randn(steps, generator=torch.Generator().manual_seed(0)).mul(0.1).tolist()
    resting = [3.0 + x for x in noise]
    assert judged(PlateauAlarm(3.0, steps), resting) == ["unigram_plateau"] * (steps // window)
    assert judged(PlateauAlarm(3.0, steps), resting[: window - 1]) == []
    assert judged(PlateauAlarm(2.9, steps), [*[5.0] * window, *resting]) == []
    assert judged(PlateauAlarm(3.0, steps), [3.5 - step / window + x for step, x in enumerate(noise)]) == []
    assert judged(PlateauAlarm(3.0, steps), [math.nan] * steps) == []
    assert judged(PlateauAlarm(3.0, steps, warmup=1), resting[:window]) == []


def test_waiting_and_degenerate_texts_are_judged_by_more_than_half():
    assert judge_waiting(10, 5.1, 10.0).kind == "data_stall"
    assert judge_waiting(10, 4.9, 10.0) is None
    assert judge_waiting(10, 0.009, 0.01) is None  # steps of milliseconds
    assert judge_sample(10, 0.51, "To be").kind == "degenerate_samples"
    assert judge_sample(10, 0.5, "") is None


# ---- in a Trainer ----


class Spoil(TrainerCallback):
    """Makes the weights large before one step, so that its loss is."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(30)


LONG = {"max_steps": 30, "logging_steps": 1, "learning_rate": 1e-6, "save_strategy": "no"}


def test_a_spoilt_step_is_an_event_of_the_log_and_a_line_on_the_terminal(any_trainer, tmp_path, capsys):
    alerts = AlertCallback()
    trainer = any_trainer(RunLogCallback(run_name="tiny"), alerts, Spoil(25), **LONG)
    trainer.train()
    run = load_run(tmp_path / "out")
    found = [event for event in run.events if event.event == "alert"]
    assert "loss_spike" in {event.extra["kind"] for event in found}
    spike = next(event for event in found if event.extra["kind"] == "loss_spike")
    assert spike.iter == 25
    assert spike.extra["value"] == pytest.approx(run.column("loss")[24], rel=1e-6)
    assert f"alert: {spike.message}" in capsys.readouterr().err
    assert run.status == "completed"
    assert len(run.steps) == 30
    assert alerts.failure is None


def test_fail_on_stops_with_a_checkpoint_and_the_log_says_why(any_trainer, tmp_path):
    alerts = AlertCallback(fail_on="all")
    trainer = any_trainer(RunLogCallback(run_name="tiny"), alerts, Spoil(25), **LONG)
    trainer.train()
    assert trainer.state.global_step == 25
    assert (tmp_path / "out" / "checkpoint-25").is_dir()
    run = load_run(tmp_path / "out")
    assert run.status == "failed"
    assert run.events[-1].message == alerts.failure
    assert "so the run was stopped" in alerts.failure


def test_a_kind_is_silent_for_a_while_after_an_alert(make_trainer):
    alerts = AlertCallback()
    trainer = make_trainer(alerts)
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    heard = []
    reports_of(state).listen(heard.append)
    alerts.on_train_begin(trainer.args, state, control)
    for step in range(1, 151):
        state.global_step = step
        alerts.on_log(trainer.args, state, control, logs={"loss": math.nan, "grad_norm": 1.0})
    assert [event.iter for event in heard] == [1, 101]


def test_it_listens_to_the_throughput_and_the_samples_of_other_callbacks(make_trainer):
    alerts = AlertCallback(fail_on=["data_stall"])
    trainer = make_trainer(alerts)
    state, control = TrainerState(is_world_process_zero=True), TrainerControl()
    heard = []
    reports_of(state).listen(heard.append)
    alerts.on_train_begin(trainer.args, state, control)
    reports = reports_of(state)
    for step in (10, 20, 30):  # ten seconds each; the first is when a loader's workers start, one stall is none
        metrics = {"throughput/data_wait_s": 8.0, "throughput/step_time_ms": 1000.0}
        reports.publish(MeasurementRecord(iter=step, source="throughput", metrics=metrics))
    for mode in ("greedy", "sampled"):  # greedy texts of a sound model repeat themselves, too
        reports.publish(SampleRecord(iter=20, prompt="", text="aaaa", extra={"top_share": 1.0, "mode": mode}))
    kinds = [record.extra["kind"] for record in heard if record.type == "event"]
    assert kinds == ["data_stall", "degenerate_samples"]
    state.global_step = 30
    assert alerts.on_log(trainer.args, state, control, logs={"loss": 1.0}).should_training_stop


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'loss_spike'"):
        AlertCallback(fail_on="loss_spikes")
