"""Feeds an evaluation set to the ranks: every sequence once, every rank the same number of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..objectives import Batch


def evaluation_batches(
    dataset: Any, collator: Callable[[list[dict[str, Any]]], Batch], batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Yield this rank's batches on the host, with ``index`` (B,) saying which sequences they hold.

    Ranks take every ``world_size``-th sequence. Where the numbers do not divide, a rank repeats a sequence without
    labels, so that all ranks run the same number of forwards (sharded models wait for each other) and nothing counts twice.
    """
    size = len(dataset)
    rounds = -(-size // world_size)
    for start in range(0, rounds, batch_size):
        index = [rank + world_size * i for i in range(start, min(start + batch_size, rounds))]
        rows = (
            dataset.select([i % size for i in index])
            if hasattr(dataset, "select")
            else [dataset[i % size] for i in index]
        )
        batch = collator(list(rows))
        batch["index"] = torch.tensor([i % size for i in index])
        extra_B = torch.tensor([i >= size for i in index])
        batch["labels"] = batch["labels"].masked_fill(extra_B[:, None], -100)
        if "num_bytes" in batch:
            batch["num_bytes"] = batch["num_bytes"].masked_fill(extra_B, 0)
        yield batch


def spread(dataset: Any, most: int | None) -> Any:
    """Return at most ``most`` rows of a data set, evenly spread over it; all of it where ``most`` is None."""
    if most is None or len(dataset) <= most:
        return dataset
    places = np.linspace(0, len(dataset) - 1, most).round().astype(int).tolist()
    return dataset.select(places) if hasattr(dataset, "select") else [dataset[place] for place in places]


def data_unit(dataset: Any) -> str:
    """ "documents" where the set holds at least two (its first and last token belong to different ones), else "blocks"."""
    first, last = dataset[0], dataset[len(dataset) - 1]
    if "document_ids" not in first:
        return "blocks"
    return "documents" if first["document_ids"][1] != last["document_ids"][-1] else "blocks"
