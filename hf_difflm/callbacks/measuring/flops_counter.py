"""Count the model FLOPs of a stock causal LM in any Trainer, from the shapes that go through it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ...flops.network import Architecture, training_flops


class FlopsCounter:
    """Note the shape of each training batch as the model sees it; no arithmetic on the device.

    Args:
        model: a causal LM of a family whose FLOPs are known; padding counts as tokens, for to see it one would have to
            wait for the device.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        config: Any = getattr(model, "config", None)
        self._architecture = Architecture.from_config(config.to_dict()) if hasattr(config, "to_dict") else None
        self._lengths: Counter[int] = Counter()
        self._hook: Any = None
        # Of a denoiser it is not known here at how many positions its head runs.
        if self._architecture is not None and self._architecture.causal:
            self._hook = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if module.training and ids is not None:
            self._lengths[ids.shape[1]] += ids.shape[0]

    def take(self) -> float | None:
        """Return the model FLOPs of this process since the last call; None where they are not known."""
        if self._architecture is None or not self._lengths:
            return None
        # Each token but the first is predicted.
        labelled = sum((length - 1) * count for length, count in self._lengths.items())
        flops = training_flops(self._architecture, self._lengths, labelled)
        self._lengths.clear()
        return flops

    def remove(self) -> None:
        """Count no more; harmless where that has been done."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
