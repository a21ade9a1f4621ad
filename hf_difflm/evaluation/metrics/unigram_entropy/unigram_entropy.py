"""The unigram entropy of texts as an ``evaluate`` module."""

from typing import Any

import datasets
import evaluate

from hf_difflm.evaluation.text_quality import mean_quality, text_quality, tokens_of


class UnigramEntropy(evaluate.Metric):
    """Entropy of each text's own tokens in nats, and its length: means over texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Entropy, in nats, of the distribution of each text's own tokens, and its length in tokens.",
            citation="Zheng et al. 2024, Masked Diffusion Models are Secretly Time-Agnostic Masked Models",
            inputs_description="predictions: strings, which are split in `unit` (words or bytes), or lists of token ids.",
            features=[
                datasets.Features({"predictions": datasets.Value("string")}),
                datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
            ],
        )

    def _compute(self, predictions: list[Any], unit: str = "words") -> dict[str, float | None]:
        texts = [tokens_of(text, unit) if isinstance(text, str) else text for text in predictions]
        means = mean_quality([text_quality(text) for text in texts])
        return {name: means[name] for name in ("unigram_entropy", "length")}
