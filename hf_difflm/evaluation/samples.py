"""``hf-difflm generate``: load, generate, judge, print."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..runs.sample_groups import quality_line
from ..runs.strict_json import plain
from ..runs.tables import number, printable
from .generation import GeneratedText, generate_samples
from .options import GenerationOptions
from .targets import load_target

# What drives a terminal or has no UTF-8: controls, directions of writing, line separators, lone surrogates.
_NOT_AS_IT_IS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class QualityRequest:
    """What to find out about the samples beside their text.

    Args:
        reference_model: folder or Hub name of a causal LM whose perplexity is told, with the entropy.
        real_texts: texts to compare with by MAUVE; needs the reference model.
    """

    reference_model: str | None = None
    real_texts: Sequence[str] = ()


def print_samples(
    target: str,
    prompts: Sequence[str],
    options: GenerationOptions,
    num_samples: int,
    use_cpu: bool,
    as_json: bool,
    quality: QualityRequest | None = None,
) -> None:
    """Generate ``num_samples`` texts after each prompt (one empty prompt by default) and print them.

    Control characters are shown and not obeyed; JSON holds the exact text.

    Raises:
        UserError: nothing to load, a request the model cannot fulfil, or a quality that cannot be told.
    """
    if quality is not None and quality.real_texts and quality.reference_model is None:
        raise UserError("MAUVE compares features of a language model; name one with --reference-model")
    loaded = load_target(target, use_cpu=use_cpu)
    prompts = list(prompts) or [""]
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    samples = generate_samples(loaded.model, loaded.tokenizer, repeated, options)
    each: list[dict[str, Any]] = []
    together: dict[str, Any] = {}
    if quality is not None:
        each, together = _judge(samples, quality, loaded.model.device)
    if as_json:
        print(_as_json(samples, each, together))
    else:
        _print_text(samples, each, together)


def _judge(
    samples: Sequence[GeneratedText], quality: QualityRequest, device: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from .reference_model import load_reference
    from .sample_quality import quality_of_all, quality_of_each

    reference = load_reference(quality.reference_model, device) if quality.reference_model is not None else None
    return quality_of_each(samples, reference), quality_of_all(samples, reference, quality.real_texts)


def _as_json(samples: Sequence[GeneratedText], each: Sequence[dict[str, Any]], together: dict[str, Any]) -> str:
    rows: list[dict[str, Any]] = [{"prompt": sample.prompt, "text": sample.text} for sample in samples]
    data: Any = rows
    if each:
        data = {"samples": [{**row, "quality": plain(numbers)} for row, numbers in zip(rows, each, strict=True)]}
        data["overall"] = plain(together)
    text = json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False)
    return _NOT_AS_IT_IS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _print_text(samples: Sequence[GeneratedText], each: Sequence[dict[str, Any]], together: dict[str, Any]) -> None:
    for place, sample in enumerate(samples):
        if len(samples) > 1:
            print(f"--- sample {place + 1}")
        print(printable(sample.prompt + sample.text))
        if each:
            print(f"    [{quality_line(each[place])}]")
    if each and len(samples) > 1:
        mauve = f", MAUVE {number(together['mauve'], 4)}" if "mauve" in together else ""
        print(f"--- all {len(samples)} samples: {quality_line(together)}{mauve}")
