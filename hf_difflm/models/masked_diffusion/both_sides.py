"""What makes a backbone read both sides in every kernel and under every padding, and which kernel it has."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoModel


def class_of(config: Any, auto: Any = AutoModel) -> Any:
    """The class that an auto class builds from a configuration; None where transformers has none."""
    found = auto._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, tuple) else found


def kernel_for(kind: Any, asked: str | None) -> str | None:
    """The attention kernel that a network is built with: ``eager`` where the family has no ``sdpa``.

    transformers would refuse ``sdpa`` by name, but take ``eager`` of its own accord where a saved model is loaded: then
    training and loading would not agree.
    """
    return "eager" if asked == "sdpa" and kind is not None and not kind._supports_sdpa else asked


def read_both_sides(backbone: nn.Module) -> None:
    """Tell every attention module that it is not causal.

    ``config.is_causal`` decides the mask alone; a module that says ``is_causal`` itself hands that to ``sdpa`` wherever
    there is no mask, as in a batch without padding (Nemotron, StableLM).
    """
    for module in backbone.modules():
        if getattr(module, "is_causal", None) is True:
            module.is_causal = False  # type: ignore[assignment]


__all__ = ["class_of", "kernel_for", "read_both_sides"]
