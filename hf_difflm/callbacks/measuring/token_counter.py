"""Count the tokens that go through a model in training, in any Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class TokenCounter:
    """Count the ``input_ids`` of the forward passes in training mode, from their shapes; no work on the device.

    Args:
        model: padding counts too, for to see it one would have to wait for the device.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._tokens = 0
        self._hook: Any = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(ids, Mapping):  # sentence-transformers hands over one dictionary
            ids = ids.get("input_ids")
        # What is no integer is no token: the pixels of an image model, embeddings.
        if module.training and isinstance(ids, torch.Tensor) and not ids.is_floating_point():
            self._tokens += ids.numel()

    def take(self) -> int | None:
        """Return the tokens of this process since the last call; None where there were none."""
        tokens, self._tokens = self._tokens, 0
        return tokens or None

    def remove(self) -> None:
        """Count no more; harmless where that has been done."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
