"""distinct-n as an ``evaluate`` module."""

from typing import Any

import evaluate

from hf_difflm.evaluation.metrics.inputs import DESCRIPTION, token_features, token_lists
from hf_difflm.evaluation.quality.text_statistics import distinct_n


class DistinctN(evaluate.Metric):
    """Distinct n-grams over n-grams, those of all predictions together, for n = 1, 2, 3."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Distinct n-grams over n-grams, of all predictions together; 1 repeats nothing.",
            citation="Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models",
            inputs_description=DESCRIPTION,
            features=token_features(),
        )

    def _compute(self, predictions: list[Any], unit: str = "words") -> dict[str, float | None]:
        texts = token_lists(predictions, unit)
        return {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)}
