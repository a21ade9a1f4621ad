"""Settings for each bound, and an adaptive objective whose networks already say something."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_difflm.objectives import AdaptiveSettings, MaskedDiffusionObjective, NoiseKey, adaptive_objective, count_tokens

MASK, V = 259, 260
FORMS = {
    "p0": AdaptiveSettings("full", "time_only"),
    "p1": AdaptiveSettings("none", "none", position_bias=0.7),
    "p2": AdaptiveSettings("frequency_only"),
    "p2-place": AdaptiveSettings("frequency_only", position_bias=0.7, posterior_tilt=False),
    "p3": AdaptiveSettings("full"),
}
every_form = pytest.mark.parametrize("settings", FORMS.values(), ids=FORMS.keys())


def key_of(batch, step: int = 0) -> NoiseKey:
    size = len(batch["input_ids"])
    return NoiseKey(0, step, np.arange(size), size)


def scored(batch) -> int:
    return int((batch["labels"] != -100).sum())


def made(model, settings: AdaptiveSettings, train_rows, steps: int | None = 100, spoken: bool = True, **p0):
    """An objective whose networks already say something, as they do after a while."""
    counts = count_tokens(train_rows(50), V)
    objective = adaptive_objective(model.config, MaskedDiffusionObjective(MASK, **p0), settings, counts)
    if steps is not None:
        objective.begin(steps)
    if spoken and objective.networks is not None:
        torch.manual_seed(2)
        for network in objective.networks.values():
            torch.nn.init.normal_(network.score.weight)
    return objective


def gradients(model, objective, batch, step: int = 0) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    model.zero_grad()
    output = objective(model, batch, key_of(batch, step), scored(batch))
    output.loss.backward()
    return output.loss.detach(), [None if p.grad is None else p.grad.clone() for p in model.parameters()]
