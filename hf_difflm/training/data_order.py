"""The order in which training sequences are seen: a function of seed and epoch, whatever the processes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from ..errors import UserError

NO_END = "the training text is a stream without an end: give max_steps, or max_chunks to end its epoch"


def order_of(dataset: Any, optimiser_batch: int, seed: int, max_steps: int) -> EpochSampler:
    """The order of a training set: a whole permutation, or for a stream one of each window.

    Args:
        dataset: rows by their number; a stream says so by ``is_stream``, and may have no length.
        optimiser_batch: sequences in an optimiser batch.
        seed: seed of the order.
        max_steps: the end of a stream without a length.

    Raises:
        UserError: the set has less than one optimiser batch, or no end at all.
    """
    is_stream = getattr(dataset, "is_stream", False)
    if is_stream and dataset.num_blocks is None:
        if max_steps <= 0:
            raise UserError(
                "the training text is a stream without an end: give max_steps, or max_chunks to end its epoch"
            )
        return WindowSampler(max_steps * optimiser_batch, optimiser_batch, seed, dataset.window_size, endless=True)
    if len(dataset) < optimiser_batch:
        raise UserError(
            f"the training set has {len(dataset)} sequences, fewer than one optimiser batch of {optimiser_batch}; lower "
            "global_batch_size or use more text"
        )
    if is_stream:
        return WindowSampler(len(dataset), optimiser_batch, seed, dataset.window_size)
    return EpochSampler(len(dataset), optimiser_batch, seed)


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


class WindowSampler(EpochSampler):
    """Windows one after the other, each permuted by itself; cut to whole optimiser batches.

    Whoever goes on in the middle needs only the window he is in: no buffer is lost.

    Args:
        size, global_batch_size, seed: see :class:`EpochSampler`.
        window_size: sequences in a window; the last one of an epoch may be shorter.
        endless: that one is a whole one, too, of which the epoch takes the beginning.
    """

    def __init__(self, size: int, global_batch_size: int, seed: int, window_size: int, endless: bool = False):
        super().__init__(size, global_batch_size, seed)
        self.window_size = window_size
        self.endless = endless

    def __iter__(self) -> Iterator[int]:
        return islice(self._places(), self.kept)

    def _places(self) -> Iterator[int]:
        for window, start in enumerate(range(0, self.size, self.window_size)):
            length = self.window_size if self.endless else min(self.window_size, self.size - start)
            key = np.random.SeedSequence([self.seed, self.epoch, window])
            order = np.random.Generator(np.random.Philox(key)).permutation(length)
            yield from (start + order).tolist()
