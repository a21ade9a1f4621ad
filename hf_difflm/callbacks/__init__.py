"""Callbacks that work in any transformers Trainer; imported on first use, for transformers is slow to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import on_first_use

_HOMES = {
    "AlertCallback": ".alerts",
    "DashboardCallback": ".dashboard",
    "GenerationSamplesCallback": ".generation",
    "GradientNormCallback": ".gradients",
    "ImportanceSamplesCallback": ".importance_samples",
    "Logger": ".logger",
    "ModelStatisticsCallback": ".model_statistics",
    "RunLogCallback": ".run_log",
    "ThroughputCallback": ".throughput",
    "TrackerCallback": ".trackers",
}
__all__ = [
    "AlertCallback",
    "DashboardCallback",
    "GenerationSamplesCallback",
    "GradientNormCallback",
    "ImportanceSamplesCallback",
    "Logger",
    "ModelStatisticsCallback",
    "RunLogCallback",
    "ThroughputCallback",
    "TrackerCallback",
]

if TYPE_CHECKING:
    from .alerts import AlertCallback
    from .dashboard import DashboardCallback
    from .generation import GenerationSamplesCallback
    from .gradients import GradientNormCallback
    from .importance_samples import ImportanceSamplesCallback
    from .logger import Logger
    from .model_statistics import ModelStatisticsCallback
    from .run_log import RunLogCallback
    from .throughput import ThroughputCallback
    from .trackers import TrackerCallback

__getattr__ = on_first_use(__name__, _HOMES)
