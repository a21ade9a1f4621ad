"""How much texts repeat themselves, as an ``evaluate`` module."""

from typing import Any

import datasets
import evaluate

from hf_difflm.evaluation.text_quality import mean_quality, text_quality, tokens_of


class Repetition(evaluate.Metric):
    """Longest run of one token, share of repeated 4-grams and share of the most frequent token: means over texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Longest run of one token, seq-rep-4 and share of the most frequent token, mean over texts.",
            citation="Welleck et al. 2020, Neural Text Generation with Unlikelihood Training",
            inputs_description="predictions: strings, which are split in `unit` (words or bytes), or lists of token ids.",
            features=[
                datasets.Features({"predictions": datasets.Value("string")}),
                datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
            ],
        )

    def _compute(self, predictions: list[Any], unit: str = "words") -> dict[str, float | None]:
        texts = [tokens_of(text, unit) if isinstance(text, str) else text for text in predictions]
        means = mean_quality([text_quality(text) for text in texts])
        return {name: means[name] for name in ("longest_run", "repeated_4", "top_share")}
