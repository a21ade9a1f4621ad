"""What is minimised: an objective turns a batch of clean tokens into a loss with token counts and named quantities.

The names below are imported on first use: what the objectives are called is needed before torch is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..compat import need_networks
from ..lazy import on_first_use

_HOMES = {
    "AdaptiveMaskingObjective": ".adaptive.objective",
    "AdaptiveSettings": ".adaptive.settings",
    "Batch": ".base",
    "BlockDiffusionObjective": ".block_diffusion",
    "CausalObjective": ".causal",
    "CountLaw": ".count_laws",
    "DraftImportance": ".adaptive.draft_importance",
    "MaskedDiffusionObjective": ".masked_diffusion",
    "NoiseKey": ".base",
    "Objective": ".base",
    "ObjectiveOutput": ".base",
    "Summary": ".base",
    "adaptive_objective": ".adaptive.objective",
    "count_tokens": ".adaptive.frequency_prior",
    "load_importance": ".adaptive.importance_file",
}
__all__ = [
    "AdaptiveMaskingObjective",
    "AdaptiveSettings",
    "Batch",
    "BlockDiffusionObjective",
    "CausalObjective",
    "CountLaw",
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

if TYPE_CHECKING:
    from .adaptive.draft_importance import DraftImportance
    from .adaptive.frequency_prior import count_tokens
    from .adaptive.importance_file import load_importance
    from .adaptive.objective import AdaptiveMaskingObjective, adaptive_objective
    from .adaptive.settings import AdaptiveSettings
    from .base import Batch, NoiseKey, Objective, ObjectiveOutput, Summary
    from .block_diffusion import BlockDiffusionObjective
    from .causal import CausalObjective
    from .count_laws import CountLaw
    from .masked_diffusion import MaskedDiffusionObjective

__getattr__ = on_first_use(__name__, _HOMES, before=need_networks)
