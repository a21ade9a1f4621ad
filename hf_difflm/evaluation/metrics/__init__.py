"""The text metrics as modules of the library ``evaluate``: ``evaluate.load`` takes the folders next to this file.

They work without a network: ``evaluate.load(str(metric_path("distinct_n")))``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import UserError, did_you_mean

METRICS = ("distinct_n", "reference_perplexity", "repetition", "unigram_entropy")


def metric_path(name: str) -> Path:
    """Return the folder that ``evaluate.load`` takes.

    Raises:
        UserError: there is no metric of that name.
    """
    if name not in METRICS:
        raise UserError(f"metric {name!r} is unknown{did_you_mean(name, METRICS)}; there are {', '.join(METRICS)}")
    return Path(__file__).parent / name


def load_metric(name: str) -> Any:
    """Load a metric through ``evaluate``; what it is given stays in memory.

    Raises:
        UserError: there is no metric of that name.
    """
    import evaluate

    return evaluate.load(str(metric_path(name)), keep_in_memory=True)
