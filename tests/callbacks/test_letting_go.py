"""What a callback has put on a model goes with it, also where the Trainer failed and told nobody."""

from __future__ import annotations

import gc
import weakref

import pytest
from transformers import TrainerCallback

from hf_difflm.callbacks import ModelStatisticsCallback, RunLogCallback, ThroughputCallback
from hf_difflm.callbacks.measuring.activation_hooks import ActivationHooks

MAKERS = {
    "statistics": lambda: ModelStatisticsCallback(1),
    "throughput": ThroughputCallback,
    "run log": RunLogCallback,
}


class Fails(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 1:
            raise RuntimeError("out of memory")


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def fail(make_trainer, callback):
    """Train until it fails; returns the model alone."""
    trainer = make_trainer(callback, Fails())
    assert hooks_on(trainer.model) == 0
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    return trainer.model


@pytest.mark.parametrize("kind", MAKERS)
def test_the_hooks_of_a_training_that_failed_go_when_the_callback_is_collected(make_trainer, kind):
    callback = MAKERS[kind]()
    alive = weakref.ref(callback)
    model = fail(make_trainer, callback)
    assert hooks_on(model) > 0
    del callback
    gc.collect()
    assert alive() is None
    assert hooks_on(model) == 0


@pytest.mark.parametrize("kind", MAKERS)
def test_let_go_takes_the_hooks_off_at_once_and_may_be_called_again(make_trainer, kind):
    callback = MAKERS[kind]()
    model = fail(make_trainer, callback)
    callback.let_go()
    callback.let_go()
    assert hooks_on(model) == 0


def test_reports_leave_nothing_behind_in_the_callback(make_trainer):
    """What each report watched would otherwise stay in memory for as long as the callback."""
    callback = ModelStatisticsCallback(1)
    make_trainer(callback, max_steps=6).train()
    gc.collect()
    assert callback.interval == 1  # it is still there
    assert not [thing for thing in gc.get_objects() if type(thing) is ActivationHooks]
