"""How much texts repeat themselves, as an ``evaluate`` module."""

from typing import Any

import evaluate

from hf_difflm.evaluation.metrics.inputs import DESCRIPTION, token_features, token_lists
from hf_difflm.evaluation.quality.text_statistics import mean_quality, text_quality


class Repetition(evaluate.Metric):
    """Longest run of one token, share of repeated 4-grams and share of the most frequent token: means over texts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Longest run of one token, seq-rep-4 and share of the most frequent token, mean over texts.",
            citation="Welleck et al. 2020, Neural Text Generation with Unlikelihood Training",
            inputs_description=DESCRIPTION,
            features=token_features(),
        )

    def _compute(self, predictions: list[Any], unit: str = "words") -> dict[str, float | None]:
        texts = token_lists(predictions, unit)
        means = mean_quality([text_quality(text) for text in texts])
        return {name: means[name] for name in ("longest_run", "repeated_4", "top_share")}
