"""An exponential moving average of the weights, kept beside them in float32."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ..runs.journal.checkpoints import EMA_FILE
from .launch.shards import local_part, reshard, shard_like, whole

# What torch.compile and activation checkpointing put into the names of the weights that they wrap.
_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_checkpoint_wrapped_module)\.")


class ExponentialMovingAverage:
    """shadow <- decay * shadow + (1 - decay) * weights, after each optimiser step.

    The decay starts lower, min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not dominated by its
    initial weights. Tied weights are averaged once. Under FSDP2 each process averages its shards; the file holds whole
    tensors under the names of the plain model, so that it can be loaded by any number of processes.

    Args:
        model: its trainable parameters are averaged.
        decay: in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self._model = model
        reshard(model)
        self._named = [(_WRAPPERS.sub("", name), p) for name, p in model.named_parameters() if p.requires_grad]
        self._shadow = [local.to(torch.float32, copy=True) for local in self._local_weights()]

    def _local_weights(self) -> list[torch.Tensor]:
        return [local_part(p) for _, p in self._named]

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average; fused over all parameters, without waiting for the device."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._shadow, [weight.float() for weight in self._local_weights()], 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it."""
        own = [weight.clone() for weight in self._local_weights()]
        self._copy(self._shadow)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[torch.Tensor]) -> None:
        reshard(self._model)  # whole weights that are left from a forward pass would outlive the copy
        torch._foreach_copy_(self._local_weights(), values)

    def save(self, folder: Path, write: bool = True) -> None:
        """Write ``ema.safetensors``. Every process of a sharded model must call this; those with ``write`` do it."""
        tensors: dict[str, torch.Tensor] = {}
        for (name, parameter), shadow in zip(self._named, self._shadow, strict=True):
            tensor = whole(shadow, parameter)
            if write:
                tensors[name] = tensor.cpu().contiguous()
        if write:
            save_file(tensors, folder / EMA_FILE, metadata={"updates": str(self.updates), "decay": str(self.decay)})

    def load(self, folder: Path, updates: int) -> None:
        """Read ``ema.safetensors``; ``updates`` is the number of optimiser steps behind it.

        Raises:
            FileNotFoundError: the checkpoint was written without an average.
        """
        with safe_open(folder / EMA_FILE, "pt") as file:
            for (name, parameter), shadow in zip(self._named, self._shadow, strict=True):
                shadow.copy_(shard_like(file.get_tensor(name), parameter))
        self.updates = updates
