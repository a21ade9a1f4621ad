"""The order in which training sequences are seen: a function of seed and epoch, whatever the processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """A permutation of the data set for each epoch, cut to whole optimiser batches.

    It draws from its own generator, so nothing else that uses random numbers can move it, and the same optimiser batches
    come out for every number of processes and every accumulation.

    Args:
        size: sequences in the data set.
        global_batch_size: sequences in an optimiser batch; what is left over at the end of an epoch is dropped.
        seed: seed of the order.
    """

    def __init__(self, size: int, global_batch_size: int, seed: int):
        self.size = size
        self.kept = size - size % global_batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        key = np.random.SeedSequence([self.seed, self.epoch])
        order = np.random.Generator(np.random.Philox(key)).permutation(self.size)
        return iter(order[: self.kept].tolist())

    def __len__(self) -> int:
        return self.kept
