"""Runs read back, ours and those of other programs; the names below are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...lazy import on_first_use

_HOMES = {"load_run": ".load", "load_runs": ".load"}
__all__ = ["load_run", "load_runs"]

if TYPE_CHECKING:
    from .load import load_run, load_runs

__getattr__ = on_first_use(__name__, _HOMES)
