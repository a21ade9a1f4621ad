"""What is minimised: an objective turns a batch of clean tokens into a loss with token counts and named quantities."""

from __future__ import annotations

from .base import Batch, NoiseKey, Objective, ObjectiveOutput
from .causal import CausalObjective
from .masked_diffusion import MaskedDiffusionObjective

__all__ = ["Batch", "CausalObjective", "MaskedDiffusionObjective", "NoiseKey", "Objective", "ObjectiveOutput"]
