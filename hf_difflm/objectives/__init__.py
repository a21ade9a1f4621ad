"""What is minimised: an objective turns a batch of clean tokens into a loss with token counts and named quantities."""

from __future__ import annotations

from .adaptive.draft_importance import DraftImportance
from .adaptive.frequency_prior import count_tokens
from .adaptive.importance_file import load_importance
from .adaptive.objective import AdaptiveMaskingObjective, adaptive_objective
from .adaptive.settings import AdaptiveSettings
from .base import Batch, NoiseKey, Objective, ObjectiveOutput, Summary
from .causal import CausalObjective
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
