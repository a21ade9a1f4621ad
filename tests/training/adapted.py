"""A network with adapters, and what a network says of the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.training.peft_adapters import with_adapters

IDS = torch.arange(97, 106)[None]


def logits(model: Any) -> torch.Tensor:
    masked = IDS.clone()
    masked[0, 3:6] = 259
    with torch.no_grad():
        return model.eval()(masked).logits


def adapted(base: Path, **changes: Any) -> Any:
    arguments = {"lora_r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "lora_target_modules": None, "seed": 0}
    model = MaskedDiffusionForMaskedLM.from_pretrained(base)
    return with_adapters(model, type("Arguments", (), arguments | changes))
