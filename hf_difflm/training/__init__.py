"""How an objective is minimised: the Trainer and its arguments. Imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {"DiffusionTrainer": ".trainer", "DiffusionTrainingArguments": ".arguments"}
__all__ = ["DiffusionTrainer", "DiffusionTrainingArguments"]

if TYPE_CHECKING:
    from .arguments import DiffusionTrainingArguments
    from .trainer import DiffusionTrainer


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
