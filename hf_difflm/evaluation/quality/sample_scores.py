"""What generated samples are worth: each on its own, and all of them through the ``evaluate`` modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..generation.texts import GeneratedText
from ..metrics import load_metric
from .mauve_score import mauve_score
from .reference_model import ReferenceModel
from .reference_perplexity import reference_perplexities
from .text_statistics import text_quality


def quality_of_each(samples: Sequence[GeneratedText], reference: ReferenceModel | None = None) -> list[dict[str, Any]]:
    """Return the numbers of each sample by its own tokens, and its perplexity and entropy under a reference model."""
    found = [text_quality(sample.ids).as_dict() for sample in samples]
    if reference is None:
        return [dict(numbers) for numbers in found]
    texts, contexts = [sample.text for sample in samples], [sample.context for sample in samples]
    judged = reference_perplexities(texts, reference, contexts=contexts)
    return [{**numbers, **perplexity.as_dict()} for numbers, perplexity in zip(found, judged, strict=True)]


def quality_of_all(
    samples: Sequence[GeneratedText], reference: ReferenceModel | None = None, real: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the numbers of all samples together.

    distinct-n pools their n-grams, perplexity their tokens; the others are means over samples.

    Args:
        samples: at least one.
        reference: judges the texts.
        real: texts to compare the samples with by MAUVE, which needs the reference.

    Raises:
        UserError: MAUVE cannot be computed.
    """
    ids = [sample.ids for sample in samples]
    found: dict[str, Any] = {}
    if any(ids):  # evaluate cannot tell a list of empty lists from a list of strings
        for name in ("unigram_entropy", "distinct_n", "repetition"):
            found |= load_metric(name).compute(predictions=ids)
    if reference is not None:
        texts, contexts = [sample.text for sample in samples], [sample.context for sample in samples]
        metric = load_metric("reference_perplexity")
        found |= metric.compute(predictions=texts, model=reference, contexts=contexts)
        if real:
            whole = [context + text for context, text in zip(contexts, texts, strict=True)]
            found["mauve"] = mauve_score(whole, real, reference).mauve
    return found
