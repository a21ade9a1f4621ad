"""Feeds an evaluation set to the ranks: every sequence once, every rank the same number of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ...objectives import Batch
from ...objectives.base import refuse_corrupted

MOST_LOGITS = 2**27
"""Logits that are looked at together, unless a single row has more: half a gigabyte, and what is made of them as much."""


class EvaluationBatches:
    """A rank's batches on the host, with ``index`` (B,) saying which sequences they hold; read afresh by each iteration.

    Ranks take every ``world_size``-th sequence. Where the numbers do not divide, a rank repeats a sequence without
    labels, so that all ranks run the same number of forwards (sharded models wait for each other) and nothing counts twice.

    Args:
        dataset: rows by number; of ``datasets`` or any sequence.
        collator: makes a batch of rows.
        batch_size: sequences in a batch.
        rank, world_size: which of how many processes this one is.
    """

    def __init__(
        self,
        dataset: Any,
        collator: Callable[[list[dict[str, Any]]], Batch],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset = dataset
        self.collator = collator
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self._sequences = -(-len(dataset) // world_size)  # of each rank

    @property
    def replicates_at_once(self) -> int:
        """How many times all sequences of a rank fit into one batch, at least 1; the same on all ranks."""
        return max(1, self.batch_size // max(1, self._sequences))

    def __len__(self) -> int:
        return -(-self._sequences // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        size = len(self.dataset)
        for start in range(0, self._sequences, self.batch_size):
            places = range(start, min(start + self.batch_size, self._sequences))
            index = [self.rank + self.world_size * i for i in places]
            batch = self.collator(list(rows_at(self.dataset, [i % size for i in index])))
            refuse_corrupted(batch)
            batch["index"] = torch.tensor([i % size for i in index])
            extra_B = torch.tensor([i >= size for i in index])
            batch["labels"] = batch["labels"].masked_fill(extra_B[:, None], -100)
            if "num_bytes" in batch:
                batch["num_bytes"] = batch["num_bytes"].masked_fill(extra_B, 0)
            yield batch


def rows_at_once(tokens: int, vocabulary: int) -> int:
    """How many rows may have logits at so many tokens each; at least 1."""
    return max(1, MOST_LOGITS // (tokens * vocabulary))


def spread(dataset: Any, most: int | None) -> Any:
    """Return at most ``most`` rows of a data set, evenly spread over it; all of it where ``most`` is None."""
    if most is None or len(dataset) <= most:
        return dataset
    return rows_at(dataset, np.linspace(0, len(dataset) - 1, most).round().astype(int).tolist())


def rows_at(dataset: Any, places: Sequence[int]) -> Any:
    """Return some rows of a data set of ``datasets``, or of any sequence, by their places."""
    return dataset.select(places) if hasattr(dataset, "select") else [dataset[place] for place in places]


def data_unit(dataset: Any) -> str:
    """ "documents" where the set holds at least two (its first and last token belong to different ones), else "blocks"."""
    first, last = dataset[0], dataset[len(dataset) - 1]
    if "document_ids" not in first:
        return "blocks"
    return "documents" if first["document_ids"][1] != last["document_ids"][-1] else "blocks"
