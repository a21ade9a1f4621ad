"""What the metrics on tokens take: texts, or the token ids of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets

from ..quality.text_statistics import tokens_of

DESCRIPTION = "predictions: strings, which are split in `unit` (words or bytes), or lists of token ids."


def token_features() -> list[datasets.Features]:
    """Return the forms of ``predictions`` that ``evaluate`` lets through."""
    return [
        datasets.Features({"predictions": datasets.Value("string")}),
        datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
    ]


def token_lists(predictions: Sequence[Any], unit: str) -> list[Any]:
    """Return the tokens of each prediction."""
    return [tokens_of(text, unit) if isinstance(text, str) else text for text in predictions]
