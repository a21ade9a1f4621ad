"""Texts of the library's generation, for tests that want nothing else of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples


def generate_texts(model: Any, tokenizer: Any, prompts: Sequence[str], options: GenerationOptions) -> list[str]:
    """Continue each prompt."""
    return [sample.text for sample in generate_samples(model, tokenizer, prompts, options)]
