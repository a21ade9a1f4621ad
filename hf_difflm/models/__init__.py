"""The networks: a masked-diffusion denoiser around any backbone, and the stock causal LM of the same size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..compat import need_networks
from ..lazy import on_first_use
from .options import ModelOptions

_HOMES = {
    "build_causal_lm": ".build",
    "build_denoiser": ".build",
    "MaskedDiffusionConfig": ".masked_diffusion.configuration_masked_diffusion",
    "MaskedDiffusionForMaskedLM": ".masked_diffusion.modeling_masked_diffusion",
    "MaskedDiffusionGenerationConfig": ".masked_diffusion.generation_masked_diffusion",
    "RecordingStreamer": ".masked_diffusion.generation_streamers",
}
__all__ = [
    "MaskedDiffusionConfig",
    "MaskedDiffusionForMaskedLM",
    "MaskedDiffusionGenerationConfig",
    "ModelOptions",
    "RecordingStreamer",
    "build_causal_lm",
    "build_denoiser",
]

if TYPE_CHECKING:
    from .build import build_causal_lm, build_denoiser
    from .masked_diffusion.configuration_masked_diffusion import MaskedDiffusionConfig
    from .masked_diffusion.generation_masked_diffusion import MaskedDiffusionGenerationConfig
    from .masked_diffusion.generation_streamers import RecordingStreamer
    from .masked_diffusion.modeling_masked_diffusion import MaskedDiffusionForMaskedLM


def register_auto_classes() -> None:
    """Let ``AutoConfig`` and ``AutoModelForMaskedLM`` know the denoiser; called on first use.

    Raises:
        UserError: transformers is too old for it.
    """
    need_networks()
    from transformers import AutoConfig, AutoModelForMaskedLM

    from .masked_diffusion.configuration_masked_diffusion import MaskedDiffusionConfig
    from .masked_diffusion.modeling_masked_diffusion import MaskedDiffusionForMaskedLM

    AutoConfig.register(MaskedDiffusionConfig.model_type, MaskedDiffusionConfig, exist_ok=True)
    AutoModelForMaskedLM.register(MaskedDiffusionConfig, MaskedDiffusionForMaskedLM, exist_ok=True)


__getattr__ = on_first_use(__name__, _HOMES, before=register_auto_classes)
