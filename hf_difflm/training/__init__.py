"""How an objective is minimised: the Trainer and its arguments. Imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..compat import need_networks
from ..lazy import on_first_use

_HOMES = {"DiffusionTrainer": ".trainer", "DiffusionTrainingArguments": ".arguments"}
__all__ = ["DiffusionTrainer", "DiffusionTrainingArguments"]

if TYPE_CHECKING:
    from .arguments import DiffusionTrainingArguments
    from .trainer import DiffusionTrainer

__getattr__ = on_first_use(__name__, _HOMES, before=need_networks)
