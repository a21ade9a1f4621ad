"""Several streams as one: which block is of which is a cycle, so shares of the tokens are exact and any block is found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from hf_difflm.errors import UserError

from .blocks import BlockStream


def cycle_of(counts: Sequence[int]) -> np.ndarray:
    """Return the order of sources within a cycle, (sum of counts,): at each block the one that is furthest behind."""
    total = sum(counts)
    taken, order = np.zeros(len(counts)), []
    for block in range(1, total + 1):
        order.append(int(np.argmax(np.array(counts) * block / total - taken)))
        taken[order[-1]] += 1
    return np.array(order)


def aligned_window(window_size: int, cycle: int) -> int:
    """Return the windows of a mixture: whole cycles, so that a window of it is a window of each source."""
    return -(-window_size // cycle) * cycle


class MixedBlockStream(Dataset[dict[str, np.ndarray]]):
    """The blocks of several streams by their number in the mixture.

    Args:
        streams: one a source; the window of each is its part of this one's.
        counts: blocks of each in a cycle.
        window_size: see :func:`aligned_window`.
        num_blocks: where the mixture ends; None: never.

    Attributes:
        is_stream, fingerprint: as of :class:`BlockStream`.
    """

    is_stream = True

    def __init__(
        self, streams: Sequence[BlockStream], counts: Sequence[int], window_size: int, num_blocks: int | None
    ) -> None:
        self.streams = list(streams)
        self.counts = list(counts)
        self.window_size = window_size
        self.num_blocks = num_blocks
        self.order = cycle_of(counts)
        self.place = np.array([int((self.order[:i] == source).sum()) for i, source in enumerate(self.order)])
        parts = [*(stream.fingerprint for stream in streams), str(self.counts)]
        self.fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def __len__(self) -> int:
        if self.num_blocks is None:
            raise TypeError("this stream has no end, and so no length")
        return self.num_blocks

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """See :meth:`BlockStream.__getitem__`."""
        if index < 0 or (self.num_blocks is not None and index >= self.num_blocks):
            raise IndexError(f"block {index} of a mixture of {self.num_blocks} blocks")
        cycle, inside = divmod(index, len(self.order))
        source = int(self.order[inside])
        return self.streams[source][cycle * self.counts[source] + int(self.place[inside])]

    def position(self, index: int) -> dict[str, Any]:
        """See :meth:`BlockStream.position`."""
        window = index // self.window_size
        return {
            "fingerprint": self.fingerprint,
            "sources": [stream.position(window * stream.window_size) for stream in self.streams],
        }

    def restore(self, position: dict[str, Any]) -> None:
        """See :meth:`BlockStream.restore`."""
        if position.get("fingerprint") != self.fingerprint:
            raise UserError(
                "the mixture has changed since the checkpoint, or is read in another way: give the data, the shares and the "
                "options the run was started with"
            )
        for stream, one in zip(self.streams, position["sources"], strict=True):
            stream.restore(one)

    def one_pass(self, num_blocks: int) -> Iterator[np.ndarray]:
        """Yield (at most ``num_blocks``, block_size) int32 arrays until the text of a source ends, or the budget."""
        rows = [_rows(stream, num_blocks) for stream in self.streams]
        found: list[np.ndarray] = []
        index = 0
        while self.num_blocks is None or index < self.num_blocks:
            row = next(rows[int(self.order[index % len(self.order)])], None)
            if row is None:
                break
            found.append(row)
            index += 1
            if len(found) == num_blocks:
                yield np.stack(found)
                found = []
        if found:
            yield np.stack(found)


def blocks_of(source: int, counts: Sequence[int], num_blocks: int) -> int:
    """Return how many of the first blocks of a mixture are of one source."""
    order = cycle_of(counts)
    cycles, rest = divmod(num_blocks, len(order))
    return cycles * counts[source] + int((order[:rest] == source).sum())


def _rows(stream: BlockStream, num_blocks: int) -> Iterator[np.ndarray]:
    for blocks in stream.one_pass(num_blocks):
        yield from blocks
