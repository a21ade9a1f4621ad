"""Use a model in the middle of its training and leave no trace."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block the model is in evaluation mode and records no gradients; after it everything is as before.

    That is: the mode of each module of its own (some may have been frozen in evaluation mode), the generation
    configuration, ``config.use_cache``, and the random numbers of Python, NumPy, torch and the model's devices.
    """
    modes = [(module, module.training) for module in model.modules()]
    config: Any = getattr(model, "config", None)
    use_cache = getattr(config, "use_cache", None)
    generation_config: Any = getattr(model, "generation_config", None)
    generation_values = copy.deepcopy(vars(generation_config)) if generation_config is not None else {}
    python_state, numpy_state, torch_states = random.getstate(), np.random.get_state(), _torch_states(model)
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        _restore(torch_states)
        for module, mode in modes:
            module.training = mode
        if use_cache is not None:
            config.use_cache = use_cache
        if generation_config is not None:
            vars(generation_config).clear()
            vars(generation_config).update(generation_values)
            if model.generation_config is not generation_config:
                model.generation_config = generation_config


def _torch_states(model: torch.nn.Module) -> dict[torch.device, torch.Tensor]:
    """The generators of the CPU and of the devices the model lies on; other devices do not train it."""
    states = {torch.device("cpu"): torch.get_rng_state()}
    for device in {parameter.device for parameter in model.parameters()}:
        if device.type not in ("cpu", "meta"):
            module: Any = torch.get_device_module(device)
            states[device] = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    return states


def _restore(states: dict[torch.device, torch.Tensor]) -> None:
    for device, state in states.items():
        if device.type == "cpu":
            torch.set_rng_state(state)
            continue
        module: Any = torch.get_device_module(device)
        if device.type == "mps":
            module.set_rng_state(state)
        else:
            module.set_rng_state(state, device)
