"""``hf-difflm generate``: load, generate, print."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .generation import generate_texts
from .options import GenerationOptions
from .targets import load_target


def print_samples(
    target: str, prompts: Sequence[str], options: GenerationOptions, num_samples: int, use_cpu: bool, as_json: bool
) -> None:
    """Generate ``num_samples`` texts after each prompt (one empty prompt by default) and print them.

    Raises:
        UserError: nothing to load, or a request the model cannot fulfil.
    """
    loaded = load_target(target, use_cpu=use_cpu)
    prompts = list(prompts) or [""]
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    texts = generate_texts(loaded.model, loaded.tokenizer, repeated, options)
    if as_json:
        samples = [{"prompt": prompt, "text": text} for prompt, text in zip(repeated, texts, strict=True)]
        print(json.dumps(samples, ensure_ascii=False, indent=2))
        return
    for i, (prompt, text) in enumerate(zip(repeated, texts, strict=True)):
        if len(texts) > 1:
            print(f"--- sample {i + 1}")
        print(prompt + text)
