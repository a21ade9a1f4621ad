"""Adapters beside a network of tensors without memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ...training.peft_adapters import with_adapters

_SETTINGS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "seed")


def with_simulated_adapters(model: Any, training: Mapping[str, Any]) -> Any:
    """Put adapters beside ``model`` as the settings say, and freeze all else; called where nothing is allocated.

    PEFT moves adapters to the device of their layer, which tensors without memory do not bear; those of the device ``meta``
    it leaves alone. So they are made there first.

    Args:
        model: on tensors without memory.
        training: settings by name; nothing is done where ``lora_r`` is None.

    Raises:
        UserError: see :func:`~hf_difflm.training.peft_adapters.with_adapters`.
    """
    with torch.device("meta"):
        model = with_adapters(model, SimpleNamespace(**{name: training[name] for name in _SETTINGS}))
    for module in model.modules():
        for name, made in list(module.named_parameters(recurse=False)):
            if made.device.type == "meta":
                here = torch.empty(made.shape, dtype=made.dtype, device="cpu")
                setattr(module, name, nn.Parameter(here, requires_grad=made.requires_grad))
    return model
