"""The memory estimate of adapters: frozen weights have neither gradient nor optimiser state, and merging has its price."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from allocated import DEEP, allocated_at_most, rows

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.experiments.building import build_model
from hf_difflm.experiments.memory.estimate import estimate_memory
from hf_difflm.experiments.memory.report import table
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.experiments.starting_point import begin_from
from hf_difflm.experiments.trainer_arguments import training_arguments
from hf_difflm.training import DiffusionTrainer

pytest.importorskip("peft", reason="peft is not installed (pip install 'hf_difflm[peft]')")

QUIET = {"use_cpu": True, "save_strategy": "no", "save_log_to_json": False, "max_steps": 3, "block_size": 128}
ADAPTERS = {"lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = load_tokenizer("bytes")
    build_model(load_settings(None, DEEP), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def settings_of(base: Path, **options: Any) -> Any:
    return load_settings(None, {**QUIET, "init_from": str(base), **options})


def measured(settings: Any, folder: Path, train: bool) -> int:
    tokenizer, data = load_tokenizer("bytes"), rows(32, settings.data.block_size)
    settings = begin_from(settings)

    def run() -> DiffusionTrainer:
        arguments = training_arguments(settings, folder / "run")
        trainer = DiffusionTrainer(build_model(settings, tokenizer), arguments, data, data[:2], tokenizer)
        if train:
            trainer.train()
        else:
            trainer.save_model(str(folder / "out"))
        return trainer

    return allocated_at_most(run, folder / "trace.json")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"per_device_train_batch_size": 8}, {"per_device_train_batch_size": 2, "ema_decay": 0.9, "bf16": True}]
)
def test_the_estimate_is_within_15_per_cent_of_what_a_real_training_allocates(base, tmp_path, options):
    settings = settings_of(base, eval_strategy="no", **ADAPTERS, **options)
    assert estimate_memory(settings).training == pytest.approx(measured(settings, tmp_path, train=True), rel=0.15)


@pytest.mark.slow
def test_the_estimate_of_merging_is_within_15_per_cent_of_what_it_allocates(base, tmp_path):
    settings = settings_of(base, eval_strategy="no", optim="sgd", lora_r=2)
    assert estimate_memory(settings).merging == pytest.approx(measured(settings, tmp_path, train=False), rel=0.15)


def test_frozen_weights_have_neither_gradient_nor_state_nor_average(base):
    whole = estimate_memory(settings_of(base, ema_decay=0.9))
    adapted = estimate_memory(settings_of(base, ema_decay=0.9, **ADAPTERS))
    width = DEEP["hidden_size"]
    trained = DEEP["num_hidden_layers"] * 2 * 2 * 4 * width  # two layers of a block, two matrices of rank 4 each
    assert (whole.trained, whole.merging) == (whole.parameters, 0)
    assert adapted.trained == trained
    assert adapted.parameters == whole.parameters + trained
    assert adapted.weights == 4 * adapted.parameters
    assert adapted.optimizer == 8 * trained
    assert adapted.average == 4 * trained
    assert adapted.gradients <= 4 * trained
    assert adapted.total < whole.total
    dense = width * width
    held = adapted.weights + adapted.optimizer + adapted.average
    assert adapted.merging == held + 4 * trained + 4 * dense * (2 * DEEP["num_hidden_layers"] + 1)
    assert f"({trained:,} trained)" in table(adapted)


def test_an_adapter_that_is_not_merged_needs_no_second_copy_of_the_weights(base):
    assert estimate_memory(settings_of(base, lora_merge=False, **ADAPTERS)).merging == 0


def test_two_devices_exchange_the_gradients_of_the_adapters_alone(base):
    estimate = estimate_memory(settings_of(base, global_batch_size=8, **ADAPTERS), devices=2)
    assert estimate.buffers == 4 * estimate.trained


def test_what_cannot_be_trained_or_does_not_fit_is_a_sentence(base):
    for engine in ("fsdp2", "zero3"):
        with pytest.raises(UserError, match=f"lora_r does not train under {engine}"):
            estimate_memory(settings_of(base, **ADAPTERS), devices=2, engine=engine)
    with pytest.raises(UserError, match="'q_prj' is no dense layer"):
        estimate_memory(settings_of(base, lora_r=2, lora_target_modules=["q_prj"]))
    small = {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "global_batch_size": 1, "block_size": 8}
    estimate = estimate_memory(settings_of(base, lora_r=1, optim="sgd", **small), device_memory=1_000_000)
    assert not estimate.fits
    assert "fsdp2" not in table(estimate)
