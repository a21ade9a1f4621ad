"""``generate`` for masked diffusion models, in the idiom transformers set with DiffusionGemma."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import GenerationConfig
from transformers.generation import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .noise_schedule import NoiseSchedule

SAMPLERS = ("ddpm", "ddpm_cache")


class MaskedDiffusionGenerationConfig(GenerationConfig):
    """Parameters of :meth:`MaskedDiffusionForMaskedLM.generate`, saved in ``generation_config.json``.

    Args:
        max_new_tokens: tokens to generate after the prompt.
        max_denoising_steps: steps of the reverse process.
        sampler: ``ddpm`` (ancestral; one forward a step) or ``ddpm_cache`` (the same samples; forwards only the rows
            that reveal something in a step).
        do_sample: draw tokens; False takes the likeliest.
        temperature: divides the logits; 0 means the likeliest token.
        top_k: keep the k likeliest tokens.
        top_p: keep the likeliest tokens up to this probability.
        seed: makes the text reproducible, row by row; None draws one from torch's global generator.
        return_dict_in_generate: return a :class:`MaskedDiffusionGenerationOutput` instead of the ids.
        bos_token_id: starts an empty prompt.
        eos_token_id: what follows it is padding.
        pad_token_id: fills what follows the end; the EOS token where None.

    Raises:
        ValueError: a value out of its range, or an unknown argument.
    """

    def __init__(self, **kwargs: Any) -> None:
        # As in DiffusionGemma, most attributes of the parent make no sense here, so its __init__ is not called.
        self.max_new_tokens: int | None = kwargs.pop("max_new_tokens", None)
        self.max_denoising_steps: int | None = kwargs.pop("max_denoising_steps", None)
        self.sampler: str | None = kwargs.pop("sampler", None)
        self.do_sample: bool | None = kwargs.pop("do_sample", None)
        self.temperature: float | None = kwargs.pop("temperature", None)
        self.top_k: int | None = kwargs.pop("top_k", None)
        self.top_p: float | None = kwargs.pop("top_p", None)
        self.seed: int | None = kwargs.pop("seed", None)
        self.return_dict_in_generate: bool = kwargs.pop("return_dict_in_generate", False)
        self.bos_token_id: int | None = kwargs.pop("bos_token_id", None)
        self.eos_token_id: int | list[int] | None = kwargs.pop("eos_token_id", None)
        self.pad_token_id: int | None = kwargs.pop("pad_token_id", None)
        self._commit_hash: str | None = kwargs.pop("_commit_hash", None)
        self._from_model_config: bool | None = kwargs.pop("_from_model_config", None)
        self.transformers_version: str | None = kwargs.pop("transformers_version", None)
        if kwargs:
            raise ValueError(f"generate does not know {', '.join(sorted(kwargs))}")
        self.validate()

    def validate(self, *unused: Any, **unused_too: Any) -> None:
        """Check the ranges; raises ValueError naming the parameter and its value."""
        for name in ("max_new_tokens", "max_denoising_steps", "top_k"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.temperature is not None and not self.temperature >= 0:  # NaN too
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    @staticmethod
    def _get_default_generation_params() -> dict[str, Any]:
        return {
            "max_new_tokens": 128,
            "max_denoising_steps": 128,
            "sampler": "ddpm_cache",
            "do_sample": True,
            "temperature": 1.0,
        }

    def get_generation_mode(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("masked diffusion has one way to generate")

    @classmethod
    def from_model_config(cls, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("generation parameters live in generation_config.json")


@dataclass
class MaskedDiffusionGenerationOutput(ModelOutput):
    """What :meth:`generate` returns with ``return_dict_in_generate``.

    Args:
        sequences: (B, prompt + max_new_tokens) ids, padding after the end of the text.
        tokens_per_forward: (B,) generated tokens (padding apart) over the forwards their row took part in.
    """

    sequences: torch.Tensor | None = None
    tokens_per_forward: torch.Tensor | None = None


class MaskedDiffusionGenerationMixin:
    """Gives a denoiser ``generate``. Expects ``config.mask_token_id``, ``config.schedule()`` and SUBS logits."""

    config: Any
    generation_config: Any
    generation_config_class: Any

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        generation_config: MaskedDiffusionGenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | MaskedDiffusionGenerationOutput:
        """Fill ``max_new_tokens`` masks after each prompt by ancestral sampling.

        Each position draws *when* it is revealed (the time at which the noise schedule unmasks it) and its token with
        random numbers of its own row, so a row's text does not depend on the rows beside it. Draws are made in
        float64: float32 noise acts as a lower temperature (arXiv 2409.02908).

        Args:
            input_ids: (B, P) prompts, padded on the left where they differ in length; None: one empty prompt (BOS).
            generation_config: parameters; keyword arguments of the same names win over it, and it over the model's own.
            logits_processor: called on (N, V) logits with the (N, P + max_new_tokens) canvas, before SUBS.
            streamer: gets the prompt (``put``), a draft after each step (``put_draft``, if it has one), the text.
            attention_mask: (B, P), 0 at padding.
            kwargs: fields of :class:`MaskedDiffusionGenerationConfig`.

        Returns:
            (B, P + max_new_tokens) ids, or :class:`MaskedDiffusionGenerationOutput`.

        Raises:
            ValueError: no BOS token for an empty prompt, a text longer than the model takes, an unknown argument.
        """
        config: Any = self._prepare_generation_config(generation_config, **kwargs)
        denoiser: Any = self
        device = denoiser.device
        if input_ids is None:
            if config.bos_token_id is None:
                raise ValueError(
                    "an empty prompt needs a bos_token_id in the generation config; pass input_ids instead"
                )
            input_ids = torch.tensor([[config.bos_token_id]])
        batch_size, prompt_length = input_ids.shape
        length = prompt_length + config.max_new_tokens
        limit = self.config.max_position_embeddings
        if limit is not None and length > limit:
            raise ValueError(
                f"prompt of {prompt_length} tokens + max_new_tokens {config.max_new_tokens} is longer than the "
                f"{limit} positions the model takes; lower max_new_tokens"
            )
        mask_id = self.config.mask_token_id
        canvas_BL = torch.full((batch_size, length), mask_id, dtype=torch.long, device=device)
        canvas_BL[:, :prompt_length] = input_ids.to(device)
        if attention_mask is not None and bool(attention_mask.all()):
            attention_mask = None  # nothing is padding: attention kernels are faster without a mask
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask.to(device), (0, config.max_new_tokens), value=1)
        if streamer is not None:
            streamer.put(canvas_BL[:, :prompt_length].cpu())

        # 1. Draw, on the host, the step in which each new position is revealed and the number that picks its token.
        seed = config.seed if config.seed is not None else int(torch.randint(2**62, ()).item())
        step_BL, uniform_BL = _draw_reveals(
            self.config.schedule(), batch_size, config.max_new_tokens, config.max_denoising_steps, seed
        )

        # 2. Reveal step by step; the head runs only where a token is drawn.
        processors: Any = _processors(config, logits_processor)
        greedy = not config.do_sample or config.temperature == 0
        forwards_B = torch.zeros(batch_size)
        for step in range(1, config.max_denoising_steps + 1):
            now_BL = step_BL == step
            rows = np.flatnonzero(now_BL.any(-1)) if config.sampler == "ddpm_cache" else np.arange(batch_size)
            if rows.size == 0:
                continue
            forwards_B[rows] += 1
            row_N, column_N = np.nonzero(now_BL[rows])
            flat_N = torch.from_numpy(row_N * length + prompt_length + column_N).to(device)
            rows_R = torch.from_numpy(rows).to(device)
            rows_canvas_RL = canvas_BL[rows_R]
            logits_NV = denoiser(
                rows_canvas_RL,
                attention_mask=None if attention_mask is None else attention_mask[rows_R],
                positions=flat_N,
            ).logits
            if processors:
                logits_NV = processors(rows_canvas_RL[torch.from_numpy(row_N).to(device)], logits_NV.float())
                logits_NV[:, mask_id] = float("-inf")  # SUBS has the last word
            uniform_N = torch.from_numpy(uniform_BL[rows][row_N, column_N]).to(device)
            tokens_N = logits_NV.argmax(-1) if greedy else _draw_tokens(logits_NV, uniform_N)
            rows_canvas_RL.view(-1)[flat_N] = tokens_N
            canvas_BL[rows_R] = rows_canvas_RL
            if streamer is not None and hasattr(streamer, "put_draft"):
                # A copy: the canvas goes on changing.
                streamer.put_draft(value=canvas_BL[:, prompt_length:].to("cpu", copy=True))

        # 3. Padding after the first EOS.
        new_BN = canvas_BL[:, prompt_length:]
        ended_BN = _after_eos(new_BN, config.eos_token_id)
        pad_id = config.pad_token_id
        if pad_id is None and config.eos_token_id is not None:
            pad_id = config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0]
        if pad_id is not None:
            new_BN.masked_fill_(ended_BN, pad_id)
        if streamer is not None:
            streamer.put(new_BN.cpu())
            streamer.end()
        if not config.return_dict_in_generate:
            return canvas_BL
        written_B = (~ended_BN).sum(-1).cpu()
        return MaskedDiffusionGenerationOutput(sequences=canvas_BL, tokens_per_forward=written_B / forwards_B)

    def _prepare_generation_config(
        self, generation_config: MaskedDiffusionGenerationConfig | None, **kwargs: Any
    ) -> MaskedDiffusionGenerationConfig:
        """Keyword arguments over the given configuration, the model's, the special tokens of its config, the defaults."""
        config = copy.deepcopy(generation_config or self.generation_config)
        special = {name: getattr(self.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        for base in (self.generation_config.to_dict(), special, config._get_default_generation_params()):
            for name, value in base.items():
                if getattr(config, name, None) is None:
                    setattr(config, name, value)
        for name, value in kwargs.items():
            if name.startswith("_") or name not in vars(config):
                raise ValueError(f"generate does not know {name}")
            setattr(config, name, value)
        config.validate()
        return config

    def adjust_generation_fn(
        self, generation_config: Any, from_auto_class: bool, from_pipeline: Any, name_or_path: Any, **loading: Any
    ) -> None:
        """Called by ``from_pretrained``: read ``generation_config.json`` where there is one."""
        if generation_config is not None:
            self.generation_config = self.generation_config_class.from_dict(generation_config.to_dict())
            return
        names = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
        loading = {name: loading[name] for name in names if name in loading}
        try:
            self.generation_config = self.generation_config_class.from_pretrained(
                name_or_path, _from_auto=from_auto_class, _from_pipeline=from_pipeline, **loading
            )
        except OSError:
            # The file is optional, as for every transformers model: the defaults stay.
            self.generation_config = self.generation_config_class()


def _draw_reveals(
    schedule: NoiseSchedule, batch_size: int, new_tokens: int, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """When each position is revealed, and the number that picks its token; both (B, new_tokens).

    In the reverse process a position is still masked at time t with probability 1 - alpha(t), whatever the tokens: so
    one uniform number u per position fixes its step, the one in which 1 - alpha falls to u or below.
    """
    times_S = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    masked_S = schedule.mask_probability(times_S).numpy()
    draws = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row]))).random((2, new_tokens))
        for row in range(batch_size)
    ]
    when_BN, uniform_BN = np.stack(draws, axis=1)
    # masked_S falls from 1 to 0: step i is the first with masked_S[i] <= u.
    step_BN = (steps + 1) - np.searchsorted(masked_S[::-1], when_BN, side="right")
    return step_BN.clip(1, steps), uniform_BN


def _draw_tokens(logits_NV: torch.Tensor, uniform_N: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution in float64: one uniform number a token instead of V Gumbel draws."""
    cumulative_NV = logits_NV.double().softmax(-1).cumsum(-1)
    total_N1 = cumulative_NV[:, -1:]
    # Strictly below the total, so that rounding cannot land past the last token that has probability.
    target_N1 = torch.minimum(uniform_N.unsqueeze(-1) * total_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    return torch.searchsorted(cumulative_NV, target_N1, right=True).squeeze(-1)


def _processors(config: MaskedDiffusionGenerationConfig, first: LogitsProcessorList | None) -> LogitsProcessorList:
    """The caller's processors, then temperature, top-k and top-p of the configuration."""
    processors = LogitsProcessorList(first or [])
    if config.temperature not in (None, 0, 1.0):
        processors.append(TemperatureLogitsWarper(float(config.temperature)))
    if config.top_k is not None:
        processors.append(TopKLogitsWarper(config.top_k))
    if config.top_p is not None and config.top_p < 1:
        processors.append(TopPLogitsWarper(config.top_p))
    return processors


def _after_eos(ids_BN: torch.Tensor, eos_token_id: int | list[int] | None) -> torch.Tensor:
    """(B, N) True after the first EOS of a row."""
    if eos_token_id is None:
        return torch.zeros_like(ids_BN, dtype=torch.bool)
    is_eos_BN = torch.isin(ids_BN, torch.tensor(eos_token_id, device=ids_BN.device))
    return (is_eos_BN.cumsum(-1) - is_eos_BN.long()) > 0


__all__ = ["MaskedDiffusionGenerationConfig", "MaskedDiffusionGenerationMixin", "MaskedDiffusionGenerationOutput"]
