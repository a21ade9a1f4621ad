"""Parameters of ``generate`` for masked diffusion models."""

from __future__ import annotations

import copy
import math
import numbers
from typing import Any

from transformers import GenerationConfig

from .samplers import Sampler, SamplerConfig, check_sampler, choose_sampler, nearest

NEW_TOKENS = 128
"""Tokens of a text where nothing says how many."""
DENOISING_STEPS = 128
"""Most steps of the reverse process where nothing says how many."""


class MaskedDiffusionGenerationConfig(GenerationConfig):
    """Parameters of :meth:`MaskedDiffusionForMaskedLM.generate`, saved in ``generation_config.json``.

    Args:
        max_new_tokens: tokens to generate after the prompt; 0 fills the masks of the prompt only. Where a call does not say
            how many, they are no more than the model takes after the prompt.
        max_denoising_steps: most steps of the reverse process, over all blocks together.
        sampler: name of a sampler; see ``samplers_timed.py``, ``samplers_fixed.py``, ``samplers_confidence.py``,
            ``sampler_uncertainty.py``.
        sampler_config: parameters of the sampler: an instance of its class (which also names it), or a dict.
        block_length: generate this many tokens at a time, left to right; the text may then be longer than the context,
            of which the model reads the last part that fits.
        use_cache: of a model with diffusion blocks: keep keys and values of the blocks that are filled; without, the texts
            are the same and take longer. Another model has none.
        infill: fill mask tokens inside the prompt; False refuses them.
        num_return_sequences: texts for each prompt.
        do_sample: draw tokens; False takes the likeliest.
        temperature: divides the logits; 0, or less than 1e-10, means the likeliest token.
        top_k: keep the k likeliest tokens.
        top_p: keep the likeliest tokens up to this probability.
        repetition_penalty: divides the odds of tokens that the canvas has already; 1 changes nothing.
        guidance_scale: unsupervised classifier-free guidance against the masked prompt; 1 is none, and more follows the
            prompt more. Doubles the forwards.
        seed: makes the text reproducible, row by row; a list has one for each prompt; None draws one from torch's global
            generator.
        return_dict_in_generate: return a :class:`MaskedDiffusionGenerationOutput` instead of the ids.
        static_shapes: forward all rows every time, and ask the LM head for one of a few numbers of positions, so that a
            model compiled with ``dynamic=False`` is compiled a few times and not at every step; the texts are the same. A
            model with diffusion blocks reads whole rows, then, without a cache.
        output_history: keep the canvas after each step in that output.
        bos_token_id: starts an empty prompt.
        eos_token_id: what follows it is padding, and is not computed once all before it is there.
        pad_token_id: fills what follows the end; the EOS token where None.

    Raises:
        ValueError: a value out of its range, or an unknown argument.
    """

    def __init__(self, **kwargs: Any) -> None:
        # As in DiffusionGemma, most attributes of the parent make no sense here, so its __init__ is not called.
        self.max_new_tokens: int | None = kwargs.pop("max_new_tokens", None)
        self.max_denoising_steps: int | None = kwargs.pop("max_denoising_steps", None)
        self.sampler: str | None = kwargs.pop("sampler", None)
        self.sampler_config: SamplerConfig | None = kwargs.pop("sampler_config", None)
        self.block_length: int | None = kwargs.pop("block_length", None)
        self.use_cache: bool | None = kwargs.pop("use_cache", None)
        self.infill: bool | None = kwargs.pop("infill", None)
        self.num_return_sequences: int | None = kwargs.pop("num_return_sequences", None)
        self.do_sample: bool | None = kwargs.pop("do_sample", None)
        self.temperature: float | None = kwargs.pop("temperature", None)
        self.top_k: int | None = kwargs.pop("top_k", None)
        self.top_p: float | None = kwargs.pop("top_p", None)
        self.repetition_penalty: float | None = kwargs.pop("repetition_penalty", None)
        self.guidance_scale: float | None = kwargs.pop("guidance_scale", None)
        self.seed: int | list[int] | None = kwargs.pop("seed", None)
        self.static_shapes: bool | None = kwargs.pop("static_shapes", None)
        self.return_dict_in_generate: bool = kwargs.pop("return_dict_in_generate", False)
        self.output_history: bool | None = kwargs.pop("output_history", None)
        self.bos_token_id: int | None = kwargs.pop("bos_token_id", None)
        self.eos_token_id: int | list[int] | None = kwargs.pop("eos_token_id", None)
        self.pad_token_id: int | None = kwargs.pop("pad_token_id", None)
        self._commit_hash: str | None = kwargs.pop("_commit_hash", None)
        self._from_model_config: bool | None = kwargs.pop("_from_model_config", None)
        self.transformers_version: str | None = kwargs.pop("transformers_version", None)
        if kwargs:
            name = min(kwargs)
            raise ValueError(f"generate does not know {name}{nearest(name, vars(self))}")
        self.validate()

    def validate(self, *unused: Any, **unused_too: Any) -> None:
        """Check the ranges; raises ValueError naming the parameter and its value."""
        for name in ("max_denoising_steps", "top_k", "block_length", "num_return_sequences"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value is True or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        new = self.max_new_tokens
        if new is not None and (not isinstance(new, int) or new < 0):
            raise ValueError(f"max_new_tokens must be an integer of 0 or more, got {new!r}")
        check_sampler(self.sampler, self.sampler_config)
        for name in ("temperature", "repetition_penalty", "guidance_scale", "top_p"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, numbers.Real) or not math.isfinite(value)):
                raise ValueError(f"{name} must be a number, got {value!r}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")
        if self.guidance_scale is not None and self.guidance_scale < 0:
            raise ValueError(f"guidance_scale must be 0 or more, got {self.guidance_scale}")
        seeds = self.seed if isinstance(self.seed, list | tuple) else [self.seed]
        if any(seed is not None and (not isinstance(seed, int) or seed < 0) for seed in seeds):
            raise ValueError(f"seed must be an integer of 0 or more, or a list of them, got {self.seed!r}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def to_dict(self) -> dict[str, Any]:
        output = super().to_dict()
        if isinstance(self.sampler_config, Sampler):
            output["sampler_config"] = self.sampler_config.to_dict()
        return output

    @staticmethod
    def _get_default_generation_params() -> dict[str, Any]:
        return {
            "max_new_tokens": NEW_TOKENS,
            "max_denoising_steps": DENOISING_STEPS,
            "sampler": "ddpm_cache",
            "infill": True,
            "num_return_sequences": 1,
            "do_sample": True,
            "temperature": 1.0,
            "static_shapes": False,
            "output_history": False,
        }

    def get_generation_mode(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("masked diffusion has one way to generate")

    @classmethod
    def from_model_config(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("generation parameters live in generation_config.json")


def merged_config(
    given: MaskedDiffusionGenerationConfig | None,
    of_model: MaskedDiffusionGenerationConfig,
    special_tokens: dict[str, Any],
    arguments: dict[str, Any],
) -> MaskedDiffusionGenerationConfig:
    """Keyword arguments over the given configuration, the model's, the special tokens of its config, the defaults.

    Raises:
        ValueError: an argument that no configuration has, or a value out of its range.
    """
    config: Any = copy.deepcopy(given or of_model)
    if not hasattr(config, "max_denoising_steps"):  # by name: on the Hub the class is imported a second time
        raise ValueError(
            f"generation_config is a {type(config).__name__}; give a MaskedDiffusionGenerationConfig, or keyword arguments"
        )
    for name in arguments:
        if name.startswith("_") or name not in vars(config):
            raise ValueError(f"generate does not know {name}{nearest(name, vars(config))}")
    defaults = config._get_default_generation_params()
    check_sampler(arguments.get("sampler"), arguments.get("sampler_config"))
    sampler = choose_sampler(
        [
            (arguments.get("sampler"), arguments.get("sampler_config")),
            (config.sampler, config.sampler_config),
            (of_model.sampler, of_model.sampler_config),
            (defaults["sampler"], None),
        ]
    )
    for base in (of_model.to_dict(), special_tokens, defaults):
        for name, value in base.items():
            if getattr(config, name, None) is None:
                setattr(config, name, value)
    for name, value in arguments.items():
        if value is not None or name not in defaults:  # without an end or a cut one can generate, not without a length
            setattr(config, name, value)
    config.sampler, config.sampler_config = sampler.name, sampler
    config.validate()
    return config
