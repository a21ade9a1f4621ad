"""What is minimised: an objective turns a batch of clean tokens into a loss with token counts and named quantities."""

from __future__ import annotations

from .adaptive import AdaptiveMaskingObjective, adaptive_objective
from .adaptive_settings import AdaptiveSettings
from .base import Batch, NoiseKey, Objective, ObjectiveOutput, Summary
from .causal import CausalObjective
from .draft_importance import DraftImportance
from .frequency_prior import count_tokens
from .importance_file import load_importance
from .masked_diffusion import MaskedDiffusionObjective

__all__ = [
    "AdaptiveMaskingObjective",
    "AdaptiveSettings",
    "Batch",
    "CausalObjective",
    "DraftImportance",
    "MaskedDiffusionObjective",
    "NoiseKey",
    "Objective",
    "ObjectiveOutput",
    "Summary",
    "adaptive_objective",
    "count_tokens",
    "load_importance",
]
