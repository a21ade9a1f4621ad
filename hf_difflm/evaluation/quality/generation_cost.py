"""What one way of sampling gives and takes: draw texts, count the forwards, take the time, judge."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch

from ...runs.comparing.pareto import CAUSAL, GenerationPoint
from ..generation.options import GenerationOptions
from ..generation.texts import DENOISER_OPTIONS, GeneratedText, Importance, generate_samples
from .reference_model import ReferenceModel
from .sample_scores import quality_of_all


class ForwardCounter:
    """Inside the block, ``rows`` counts the sequences that pass through a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.rows = 0
        self._model = model

    def __enter__(self) -> ForwardCounter:
        self._hook = self._model.register_forward_pre_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._hook.remove()

    def _count(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.rows += len(args[0] if args else kwargs["input_ids"])


def measure_generation(
    model: Any,
    tokenizer: Any,
    options: GenerationOptions,
    samples: int,
    *,
    is_denoiser: bool,
    batch_size: int,
    reference: ReferenceModel | None = None,
    real: Sequence[str] = (),
    importance: Importance | None = None,
) -> tuple[GenerationPoint, list[GeneratedText]]:
    """Draw texts from nothing; return what they are worth, what they cost, and the texts.

    The time is that of generating alone, without what the first batch of a process pays once more: two short texts
    before it are not counted.

    Args:
        model: masked diffusion model or causal LM.
        tokenizer: its tokenizer.
        options: how; what a causal LM has no use for is left out for one.
        samples: how many texts.
        is_denoiser: which of the two it is.
        batch_size: texts generated together.
        reference: judges them.
        real: texts to compare with by MAUVE, which needs the reference.
        importance: see :func:`generate_samples`.

    Raises:
        UserError: the options do not fit the model, or MAUVE cannot be computed.
    """
    if not is_denoiser:
        unused: dict[str, Any] = dict.fromkeys(DENOISER_OPTIONS)
        options = dataclasses.replace(options, **unused)
    warm_up = dataclasses.replace(options, max_new_tokens=2, max_denoising_steps=2 if is_denoiser else None)
    generate_samples(model, tokenizer, ["", ""], dataclasses.replace(warm_up, block_length=None), importance=importance)
    texts: list[GeneratedText] = []
    with ForwardCounter(model) as forwards:
        start = time.perf_counter()
        while len(texts) < samples:
            batch = [""] * min(batch_size, samples - len(texts))
            texts += generate_samples(model, tokenizer, batch, options, first_row=len(texts), importance=importance)
        _wait(model)
        seconds = time.perf_counter() - start
    found = quality_of_all(texts, reference, real)
    point = GenerationPoint(
        sampler=(options.sampler or model.generation_config.sampler or "") if is_denoiser else CAUSAL,
        steps=options.max_denoising_steps,
        samples=samples,
        tokens=sum(len(text.ids) for text in texts) / samples,
        reference_perplexity=found.get("reference_perplexity"),
        reference_entropy=found.get("reference_entropy"),
        unigram_entropy=found.get("unigram_entropy"),
        distinct_1=found.get("distinct_1"),
        distinct_2=found.get("distinct_2"),
        distinct_3=found.get("distinct_3"),
        mauve=found.get("mauve"),
        forwards=forwards.rows / samples,
        seconds=seconds / samples,
        batch_size=min(batch_size, samples),
    )
    return point, texts


def _wait(model: Any) -> None:
    """Until the device has done what it was given."""
    if model.device.type != "cpu":
        torch.accelerator.synchronize(model.device)
