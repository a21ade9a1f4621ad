"""The step times of any Trainer's run log are times of training."""

from __future__ import annotations

import time

import pytest
from transformers import Trainer

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.measuring import training_clock
from hf_difflm.runs import load_run


class _Clock:
    """The real time, and what is pretended to have passed besides."""

    passed = 0.0

    def perf_counter(self) -> float:
        return time.perf_counter() + self.passed


_clock = _Clock()


class _SlowEvaluation(Trainer):
    """Evaluating and saving take ten thousand seconds each."""

    def prediction_step(self, *args, **kwargs):
        _clock.passed += 1e4
        return super().prediction_step(*args, **kwargs)

    def _save_checkpoint(self, *args, **kwargs):
        _clock.passed += 1e4
        super()._save_checkpoint(*args, **kwargs)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_step_times_hold_neither_evaluation_nor_saving(make_trainer, tmp_path, every, monkeypatch):
    monkeypatch.setattr(training_clock, "time", _clock)
    strategy = {"eval_strategy": "steps", "eval_steps": every, "save_strategy": "steps", "save_steps": every}
    trainer = make_trainer(RunLogCallback(), trainer_class=_SlowEvaluation, save_total_limit=1, **strategy)
    trainer.train()
    assert _clock.passed >= 1e4
    assert max(step.time_ms for step in load_run(tmp_path / "out").steps) < 1e6
