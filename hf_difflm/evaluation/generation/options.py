"""How text is generated: the one declaration behind the flags and the Python argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...models.masked_diffusion.sampler_names import SAMPLERS


@dataclass
class GenerationOptions:
    """Options of :func:`hf_difflm.evaluation.generation.texts.generate_samples`; None leaves the choice to the model."""

    max_new_tokens: int | None = field(
        default=None,
        metadata={
            "help": "tokens to generate after the prompt; default: the model's, 0 after a prompt with holes",
            "min": 0,
        },
    )
    max_denoising_steps: int | None = field(
        default=None, metadata={"help": "most denoising steps; masked diffusion only", "min": 1}
    )
    sampler: str | None = field(
        default=None,
        metadata={"help": "how masks are resolved; masked diffusion only", "choices": SAMPLERS},
    )
    sampler_config: dict | None = field(
        default=None, metadata={"help": "parameters of the sampler by name; masked diffusion only"}
    )
    importance_weight: float | None = field(
        default=None,
        metadata={
            "help": "uncertainty sampler: the importance that an atat run has learned, to this power, weighs the order; "
            "masked diffusion only",
            "min": 0.0,
        },
    )
    block_length: int | None = field(
        default=None,
        metadata={
            "help": "generate so many tokens at a time, from the left; texts may then be longer than the context; masked "
            "diffusion only",
            "min": 1,
        },
    )
    infill: bool | None = field(
        default=None,
        metadata={
            "help": "[MASK] in a prompt is a hole to fill, and [MASK]{12} twelve of them; else it stays text; default: on "
            "for masked diffusion models"
        },
    )
    guidance_scale: float | None = field(
        default=None,
        metadata={"help": "above 1 follows the prompt more, at twice the forwards; masked diffusion only", "min": 0.0},
    )
    temperature: float | None = field(
        default=None, metadata={"help": "below 1 sharper, above 1 flatter, 0 the likeliest token", "min": 0.0}
    )
    top_k: int | None = field(default=None, metadata={"help": "draw from the k likeliest tokens", "min": 1})
    top_p: float | None = field(
        default=None,
        metadata={"help": "draw from the likeliest tokens of this total probability", "above": 0.0, "max": 1.0},
    )
    repetition_penalty: float | None = field(
        default=None, metadata={"help": "above 1 makes tokens that are there already less likely", "above": 0.0}
    )
    seed: int = field(default=0, metadata={"help": "seed of the samples", "min": 0})
