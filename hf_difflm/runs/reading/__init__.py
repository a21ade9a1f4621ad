"""Runs read back, ours and those of other programs; the names below are imported on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {"load_run": "load", "load_runs": "load"}
__all__ = ["load_run", "load_runs"]

if TYPE_CHECKING:
    from .load import load_run, load_runs


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
