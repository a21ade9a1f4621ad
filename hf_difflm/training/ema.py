"""An exponential moving average of the weights, kept beside them in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..runs.checkpoints import EMA_FILE


class ExponentialMovingAverage:
    """shadow <- decay * shadow + (1 - decay) * weights, after each optimiser step.

    The decay starts lower, min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not dominated by its
    initial weights. Tied weights are averaged once.

    Args:
        model: its trainable parameters are averaged.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self._named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._shadow = [p.detach().to(torch.float32, copy=True) for _, p in self._named]

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average; fused over all parameters, without waiting for the device."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        weights = [p.detach().float() for _, p in self._named]
        torch._foreach_lerp_(self._shadow, weights, 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it."""
        own = [p.detach().clone() for _, p in self._named]
        self._copy(self._shadow)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[torch.Tensor]) -> None:
        torch._foreach_copy_([p for _, p in self._named], values)

    def save(self, folder: Path) -> None:
        """Write ``ema.safetensors``."""
        tensors: dict[str, Any] = {name: s.contiguous() for (name, _), s in zip(self._named, self._shadow, strict=True)}
        save_file(tensors, folder / EMA_FILE, metadata={"updates": str(self.updates), "decay": str(self.decay)})

    def load(self, folder: Path, updates: int) -> None:
        """Read ``ema.safetensors``; ``updates`` is the number of optimiser steps behind it.

        Raises:
            FileNotFoundError: the checkpoint was written without an average.
        """
        tensors = load_file(folder / EMA_FILE)
        for (name, _), shadow in zip(self._named, self._shadow, strict=True):
            shadow.copy_(tensors[name])
        self.updates = updates
