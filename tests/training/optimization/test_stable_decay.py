"""``warmup_stable_decay`` takes its decay as a share, fits the steps, and says what another length would change."""

from __future__ import annotations

import pytest
from transformers import TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.training import DiffusionTrainingArguments
from hf_difflm.training.declarations.argument_checks import check_values
from hf_difflm.training.optimization.stable_decay import stable_decay_kwargs

STABLE_DECAY = {"lr_scheduler_type": "warmup_stable_decay"}


class Rates(TrainerCallback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_training_iterations(self, args, state, rows):
        self.found += [row["lr"] for row in rows]


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"decay_ratio": 0.4}, [0.0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),  # after a warm-up of two steps
        ({"decay_ratio": 0.4, "min_lr_ratio": 0.2}, [0.2, 0.6, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4]),
        ({"num_decay_steps": 4, "decay_type": "linear"}, [0.0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ({"decay_ratio": 0.8}, [0.0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
    ],
)
@pytest.mark.parametrize("length", [{"max_steps": 10}, {"max_steps": -1, "num_train_epochs": 5 / 3}])
def test_the_rate_is_constant_and_then_falls_linearly_over_a_share_of_the_steps(
    make_diffusion_trainer, kwargs, expected, length
):
    seen = Rates()
    trainer = make_diffusion_trainer(
        seen,
        **STABLE_DECAY,
        lr_scheduler_kwargs=kwargs,
        learning_rate=1.0,
        warmup_steps=2,
        save_log_to_json=False,
        **length,
    )
    trainer.train()
    assert seen.found == pytest.approx(expected)


BAD = [
    ({}, "they do not say how long the rate decays; give it either decay_ratio"),
    ({"decay_ratio": 0.3, "num_decay_steps": 4}, "they say twice how long"),
    ({"decay_ratio": 1.2}, "decay_ratio is a share of all steps; give a number above 0"),
    ({"decay_ratio": "a"}, "decay_ratio is a share of all steps"),
    ({"decay_ratio": 0.3, "num_stable_steps": 3}, "leave num_stable_steps out"),
    ({"num_decay_steps": 0.1}, "num_decay_steps is a whole number of steps; give one, or decay_ratio"),
]


@pytest.mark.parametrize(("kwargs", "sentence"), BAD)
def test_what_is_no_schedule_is_told_in_python_and_on_the_command_line(tmp_path, kwargs, sentence):
    with pytest.raises(UserError, match=sentence):
        check_values({**STABLE_DECAY, "lr_scheduler_kwargs": kwargs})
    with pytest.raises(UserError, match=sentence):
        DiffusionTrainingArguments(str(tmp_path), use_cpu=True, **STABLE_DECAY, lr_scheduler_kwargs=kwargs)
    with pytest.raises(UserError, match=r"takes num_decay_steps, .*did you mean|did you mean 'decay_type'"):
        check_values({**STABLE_DECAY, "lr_scheduler_kwargs": {"decay_ratio": 0.3, "decay_typ": "linear"}})


def test_what_does_not_fit_the_steps_is_told_before_there_are_data_or_where_epochs_decide_when_they_are_counted(
    make_diffusion_trainer, tmp_path
):
    schedule = {**STABLE_DECAY, "lr_scheduler_kwargs": {"decay_ratio": 0.8}, "warmup_steps": 3}
    sentence = (
        "3 steps of warm-up and 8 until the decay ends are more than the 10 of the training; lower warmup_steps or"
    )
    with pytest.raises(UserError, match=sentence):
        DiffusionTrainingArguments(str(tmp_path), use_cpu=True, max_steps=10, **schedule)
    trainer = make_diffusion_trainer(max_steps=-1, num_train_epochs=5 / 3, **schedule)
    with pytest.raises(UserError, match=sentence):
        trainer.train()
    with pytest.raises(UserError, match="0 steps of warm-up and 11 until"):
        stable_decay_kwargs({"num_decay_steps": 8, "num_stable_steps": 3}, 0, 10)
    assert stable_decay_kwargs({"decay_ratio": 0.8}, 2, 10) == {"num_decay_steps": 8, "decay_type": "linear"}


def test_a_resume_with_another_length_is_refused_with_what_it_would_change(make_diffusion_trainer, tmp_path):
    schedule = {**STABLE_DECAY, "lr_scheduler_kwargs": {"decay_ratio": 0.5}, "save_strategy": "steps", "save_steps": 3}
    make_diffusion_trainer(max_steps=6, **schedule).train()
    trainer = make_diffusion_trainer(max_steps=12, **schedule)
    with pytest.raises(
        UserError, match=r"max_steps = 12.*, and would decay from step 6 on instead of step 3; train on"
    ):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    seen = Rates()
    resumed = make_diffusion_trainer(seen, max_steps=6, **schedule, learning_rate=1e-2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert seen.found == pytest.approx([1e-2, 1e-2 * 2 / 3, 1e-2 / 3])
