"""Between two logging steps the host never waits for the device, so it runs ahead and the device is never idle."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import TrainerCallback
from watched_device import DEVICE, DeviceWaits, counted_waits

from hf_difflm.callbacks import GradientNormCallback, ModelStatisticsCallback, RunLogCallback, ThroughputCallback
from hf_difflm.callbacks.alerts import AlertCallback
from hf_difflm.errors import UserError

EVERY = 4  # steps between logs
MDLM: dict[str, dict[str, Any]] = {
    "plain": {},
    "time form": {"loss_form": "time"},
    "pairs": {"noise_sampling": "pairs"},
    "bell, flat": {"count_law": "bell", "loss_weight": "flat"},
    "optimal": {"count_law": "optimal"},
    "static shapes": {"static_shapes": True},
    "accumulation": {"per_device_train_batch_size": 2, "global_batch_size": 4},
    "average": {"ema_decay": 0.9},
    "no clipping": {"max_grad_norm": 0.0},
    "atat": {"objective": "atat", "importance": "frequency_only"},
    "atat by position": {"objective": "atat", "importance": "none", "position_bias": 0.7},
}


class _Steps(TrainerCallback):
    """Tells which step the waits belong to: its batches are fetched after the hooks of the step before."""

    def __init__(self, waits: DeviceWaits) -> None:
        self._waits = waits

    def on_step_begin(self, args, state, control, **kwargs):
        self._waits.step = state.global_step + 1
        assert next(kwargs["model"].parameters()).device == DEVICE


@pytest.fixture
def waits_of(make_diffusion_trainer, monkeypatch, tmp_path):
    """``waits_of(rows, **arguments)``: train two logging intervals and return the waits by step, from 1."""
    numbers = itertools.count()

    def run(rows: Any = None, **arguments: Any) -> dict[int, Counter[str]]:
        arguments["output_dir"] = str(tmp_path / f"run{next(numbers)}")
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", DEVICE.type)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # where there is a GPU, it would be taken
        with counted_waits() as waits:
            watching = [GradientNormCallback(), ThroughputCallback(), AlertCallback(), ModelStatisticsCallback(0)]
            trainer = make_diffusion_trainer(
                _Steps(waits),
                RunLogCallback(),
                *watching,
                train=rows,
                use_cpu=False,
                logging_steps=EVERY,
                max_steps=2 * EVERY,
                optim="adamw_torch",
                **arguments,
            )
            trainer.train()
        return {step: waits.by_step[step] for step in range(1, 2 * EVERY + 1)}

    return run


_AT_ONCE = ("plain", "accumulation", "average", "atat")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in _AT_ONCE else pytest.mark.slow) for c in MDLM])
def test_nothing_waits_for_the_device_between_logging_steps(waits_of, case):
    waits = waits_of(**MDLM[case])
    assert [step for step, found in waits.items() if found] == [EVERY, 2 * EVERY], waits


class _Stream(IterableDataset):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __iter__(self) -> Any:
        return iter(self._rows)


@pytest.mark.parametrize("objective", ["mdlm", "ar"])
def test_a_stream_of_rows_trains_on_a_device_and_waits_no_more_than_a_list_of_them(waits_of, train_rows, objective):
    """accelerate puts the batches of an iterable set on the device, from where the host would have to read them."""
    rows = train_rows(4 * 2 * EVERY)
    assert waits_of(_Stream(rows), objective=objective) == waits_of(rows, objective=objective)


def test_batches_that_one_process_sends_to_the_devices_of_all_are_refused(waits_of, train_rows):
    with pytest.raises(UserError, match="dispatch_batches=True puts the batches"):
        waits_of(_Stream(train_rows(8)), accelerator_config={"dispatch_batches": True})


def test_a_look_for_packed_sequences_is_all_that_the_causal_model_of_transformers_waits_for(waits_of):
    waits = waits_of(objective="ar")
    assert all(waits[step] == {"read: a number": 1} for step in waits if step % EVERY)


@pytest.mark.slow
def test_padding_costs_one_look_of_transformers_at_the_mask(waits_of, train_rows):
    waits = waits_of(train_rows(24, ragged=True))
    assert all(waits[step] == {"read: a number": 1} for step in waits if step % EVERY)


@pytest.mark.slow
def test_masks_by_learned_importance_wait_for_it_alone_once_a_micro_batch(waits_of):
    waits = waits_of(objective="atat", per_device_train_batch_size=2, global_batch_size=4)
    assert all(waits[step] == {"read: a tensor": 2} for step in waits if step % EVERY)
