"""The learned importance beside a model, as ``--importance-weight`` asks for it."""

from __future__ import annotations

from pathlib import Path

from ...errors import UserError
from ...models.masked_diffusion.samplers import name_of
from ...objectives.adaptive.draft_importance import DraftImportance
from ...objectives.adaptive.importance_file import load_importance
from ..targets import Target
from .options import GenerationOptions


def importance_for(target: Target, options: GenerationOptions) -> DraftImportance | None:
    """Return what weighs the positions of texts of a target; None where the options do not ask for it.

    Raises:
        UserError: the options are for another sampler, or there is no importance beside the model.
    """
    if options.importance_weight is None or not target.is_denoiser:  # a causal LM refuses the option with all others
        return None
    of_model = target.model.generation_config
    sampler = options.sampler or name_of(options.sampler_config) or of_model.sampler or name_of(of_model.sampler_config)
    if sampler != "uncertainty":
        said = f"the sampler is {sampler}" if sampler else "no sampler is named"
        raise UserError(f"importance_weight is for the sampler uncertainty, but {said}; add --sampler uncertainty")
    reader, _ = load_importance(target.folder or Path(target.source), target.model.device)
    return DraftImportance(reader, target.model, options.importance_weight)
