"""Perplexity under a reference causal LM, with the entropy it must be read with, as an ``evaluate`` module."""

from typing import Any

import datasets
import evaluate

from hf_difflm.evaluation.quality.reference_model import load_reference
from hf_difflm.evaluation.quality.reference_perplexity import reference_perplexity


class ReferencePerplexityMetric(evaluate.Metric):
    """Perplexity per token of texts under a causal LM, always together with their unigram entropy."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Perplexity per token under a reference causal LM, and unigram entropy in nats by its tokens.",
            citation="Zheng et al. 2024, Masked Diffusion Models are Secretly Time-Agnostic Masked Models",
            inputs_description="predictions: strings. model: folder or Hub name of a causal LM, or one that is loaded "
            "(ReferenceModel). contexts: what each text goes on from.",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(
        self, predictions: list[str], model: Any, contexts: list[str] | None = None, batch_size: int = 8
    ) -> dict[str, Any]:
        reference = load_reference(model) if isinstance(model, str) else model
        found = reference_perplexity(predictions, reference, contexts=contexts, batch_size=batch_size)
        return {**found.as_dict(), "tokens": found.tokens}
