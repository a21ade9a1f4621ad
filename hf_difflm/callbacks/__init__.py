"""Callbacks that work in any transformers Trainer; imported on first use, for transformers is slow to import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {"RunLogCallback": "run_log"}
__all__ = ["RunLogCallback"]

if TYPE_CHECKING:
    from .run_log import RunLogCallback


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
