"""Pictures of runs; the names below are imported on first use, for matplotlib is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import on_first_use

_HOMES = {"KINDS": ".kinds", "Plots": ".kinds", "plot_comparison": ".kinds", "plot_runs": ".kinds"}
__all__ = ["KINDS", "Plots", "plot_comparison", "plot_runs"]

if TYPE_CHECKING:
    from .kinds import KINDS, Plots, plot_comparison, plot_runs

__getattr__ = on_first_use(__name__, _HOMES)
