"""Encoded documents to blocks as in the MDLM paper: EOS after each document and at the end of each block.

arXiv 2406.07524, github.com/kuleshov-group/mdlm, ``dataloader.py``: a block is BOS, ``block_size - 2`` tokens, EOS; documents
are packed a thousand at a time, and what fills no block at the end of a thousand is dropped. BOS is context here, as
everywhere; the paper scores it, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa

from .blocks import Packer

DOCUMENTS_AT_ONCE = 1000
"""The batches of ``datasets.map`` in the paper's code."""


@dataclass
class PaperPacker(Packer):
    """Called with one table of documents after the other, in order; see :class:`Packer` for the columns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.eos_token_id is not None
        assert self.bos_token_id is not None

    @property
    def width(self) -> int:
        return self.block_size - 2

    def tokens_of(self, encoded: datasets.Dataset, tokens: int) -> int:
        return tokens + len(encoded)

    def __call__(self, table: pa.Table) -> pa.Table:
        found = []
        while len(table):
            room = DOCUMENTS_AT_ONCE - self._num_documents % DOCUMENTS_AT_ONCE
            part, table = table.slice(0, room), table.slice(room)
            stream = np.concatenate([self._carry, self._stream(part)], axis=1)
            used = stream.shape[1] // self.width * self.width
            found.append(stream[:, :used])
            at_end = self._num_documents % DOCUMENTS_AT_ONCE == 0
            self._carry = stream[:, used:] if not at_end else self._carry[:, :0]
        blocks = np.concatenate(found, axis=1).reshape(3, -1, self.width)
        last = np.stack([np.full(len(blocks[0]), self.eos_token_id), np.zeros(len(blocks[0])), blocks[2, :, -1]])
        return self._table(np.concatenate([blocks, last[..., None].astype(np.int32)], axis=2))

    def _separated(self, stream: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        ends = np.cumsum(lengths)
        return np.insert(stream, ends, np.stack([np.full_like(ends, self.eos_token_id), 0 * ends, numbers]), axis=1)
