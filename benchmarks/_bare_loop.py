"""The loop one would write by hand: batch, noise, forward, backward, clip, AdamW, schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hf_difflm.data import Collator
from hf_difflm.objectives import NoiseKey, Objective


def bare_loop(
    model: Any,
    objective: Objective,
    tokenizer: Any,
    dataset: Any,
    rows: int,
    steps: int,
    *,
    learning_rate: float = 1e-3,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Callable[[], None]:
    """Return what does ``steps`` optimiser steps of ``rows`` sequences; networks of the objective learn with the model.

    With the ``seed`` of a Trainer that takes the same steps it masks as many tokens in each.
    """
    groups = [list(model.parameters())]
    if objective.networks is not None:
        groups.append(list(objective.networks.to(device).parameters()))
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=learning_rate, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 100))
    collator = Collator(tokenizer)
    order = np.random.default_rng(0).permutation(len(dataset))
    state = {"step": 0}
    model.train()

    def turn() -> None:
        for _ in range(steps):
            step = state["step"]
            start = step * rows % (len(order) - rows)
            batch = collator(dataset.__getitems__(order[start : start + rows].tolist()))
            scored = int((batch["labels"] != -100).sum())
            key = NoiseKey(seed=seed, step=step, places_B=np.arange(rows), size=rows)
            objective(model, batch, key, scored, device).loss.backward()
            for group in groups:
                torch.nn.utils.clip_grad_norm_(group, 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            state["step"] += 1

    return turn
