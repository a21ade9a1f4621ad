"""distinct-n as an ``evaluate`` module."""

from typing import Any

import datasets
import evaluate

from hf_difflm.evaluation.text_quality import distinct_n, tokens_of


class DistinctN(evaluate.Metric):
    """Distinct n-grams over n-grams, those of all predictions together, for n = 1, 2, 3."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Distinct n-grams over n-grams, of all predictions together; 1 repeats nothing.",
            citation="Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models",
            inputs_description="predictions: strings, which are split in `unit` (words or bytes), or lists of token ids.",
            features=[
                datasets.Features({"predictions": datasets.Value("string")}),
                datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
            ],
        )

    def _compute(self, predictions: list[Any], unit: str = "words") -> dict[str, float | None]:
        texts = [tokens_of(text, unit) if isinstance(text, str) else text for text in predictions]
        return {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)}
