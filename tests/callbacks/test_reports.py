"""Callbacks of one Trainer reach each other, those of another do not, and nothing of it is saved."""

from __future__ import annotations

import json

from transformers import TrainerState

from hf_difflm.callbacks.measuring.training_clock import TrainingClock
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.runs.journal.schema import MeasurementRecord


def test_a_record_reaches_all_that_listen_to_the_same_training_and_no_other():
    first, second = TrainerState(), TrainerState()
    heard: list[tuple[str, object]] = []
    reports_of(first).listen(lambda record: heard.append(("a", record)))
    reports_of(first).listen(lambda record: heard.append(("b", record)))
    reports_of(second).listen(lambda record: heard.append(("other", record)))
    record = MeasurementRecord(iter=3, source="gradients", metrics={"grad_norm/head": 1.0})
    reports_of(first).publish(record)
    assert heard == [("a", record), ("b", record)]


def test_the_board_is_not_saved_with_the_state(tmp_path):
    state = TrainerState()
    reports_of(state).listen(print)
    state.save_to_json(str(tmp_path / "state.json"))
    assert "report" not in json.dumps(json.loads((tmp_path / "state.json").read_text()))


def test_time_that_is_left_out_is_left_out_once_even_before_an_evaluation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = TrainingClock()
    now[0] = 1.0  # a step of one second
    clock.boundary()
    now[0] = 6.0  # sampling
    clock.leave_out(5.0)
    now[0] = 16.0  # evaluation
    clock.exclude()
    now[0] = 18.0
    assert clock.lap() == 3.0
