"""The unigram entropy of texts as an ``evaluate`` module."""

from typing import Any

import evaluate

from hf_difflm.evaluation.metrics.inputs import DESCRIPTION, token_features, token_lists
from hf_difflm.evaluation.quality.text_statistics import mean_quality, text_quality


class UnigramEntropy(evaluate.Metric):
    """Entropy of each text's own tokens in nats, and its length: means over texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Entropy, in nats, of the distribution of each text's own tokens, and its length in tokens.",
            citation="Zheng et al. 2024, Masked Diffusion Models are Secretly Time-Agnostic Masked Models",
            inputs_description=DESCRIPTION,
            features=token_features(),
        )

    def _compute(self, predictions: list[Any], unit: str = "words") -> dict[str, float | None]:
        texts = token_lists(predictions, unit)
        means = mean_quality([text_quality(text) for text in texts])
        return {name: means[name] for name in ("unigram_entropy", "length")}
