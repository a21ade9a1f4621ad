"""The network that the estimate plans is the one that a training begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stock_models import STOCK, stock_model

from hf_difflm.experiments.building import build_model
from hf_difflm.experiments.memory.estimate import estimate_memory
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.experiments.starting_point import begin_from, open_tokenizer
from hf_difflm.experiments.trainer_arguments import training_arguments
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.training.peft_adapters import with_adapters


def planned_and_trained(source: Path, folder: Path, **options: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Parameters, trained ones and vocabulary, of the estimate and of the network itself."""
    settings = load_settings(None, {"init_from": str(source), "block_size": 64, "use_cpu": True, **options})
    planned = estimate_memory(settings)
    begun = begin_from(settings)
    model = with_adapters(build_model(begun, open_tokenizer(begun)), training_arguments(begun, folder))
    counts = model.num_parameters(), model.num_parameters(only_trainable=True), model.config.vocab_size
    assert planned.weights == 4 * planned.parameters
    return (planned.parameters, planned.trained, planned.vocabulary), counts


@pytest.mark.parametrize("name", STOCK)
def test_it_plans_the_network_of_the_weights_and_its_adapters(name, tmp_path):
    source = stock_model(tmp_path / "source", name, torch.bfloat16)
    denoiser = convert(str(source), tmp_path / "denoiser").folder
    for folder, objective in ((source, "ar"), (denoiser, "mdlm")):
        planned, trained = planned_and_trained(folder, tmp_path, objective=objective)
        assert planned == trained
    pytest.importorskip("peft", reason="peft is not installed (pip install 'hf_difflm[peft]')")
    planned, trained = planned_and_trained(denoiser, tmp_path, lora_r=2)
    assert planned == trained
    assert planned[1] < planned[0]
