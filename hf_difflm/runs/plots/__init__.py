"""Pictures of runs; the names below are imported on first use, for matplotlib is slow to import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {"KINDS": "kinds", "Plots": "kinds", "plot_comparison": "kinds", "plot_runs": "kinds"}
__all__ = ["KINDS", "Plots", "plot_comparison", "plot_runs"]

if TYPE_CHECKING:
    from .kinds import KINDS, Plots, plot_comparison, plot_runs


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
