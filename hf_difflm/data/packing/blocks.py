"""Encoded documents to blocks of one length, each starting with BOS."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_difflm.errors import UserError

from ..caching import cached_map, code_digest
from ..collator import IGNORED


@dataclass
class Packer:
    """Joins documents and cuts the stream into blocks; called with one table of documents after the other, in order.

    A block is BOS and ``block_size - 1`` scored tokens. Without BOS (``bos_token_id`` None) the token before them stands in
    its place, before the first of all ``start_token_id``. ``with_labels`` adds ``labels``, which say that it is context; the
    collator knows the tokenizer's own BOS by itself. Between two documents
    stands EOS (unless ``eos_token_id`` is None), which belongs to the document it ends and stands for no bytes. What does
    not fill a block at the end of the stream is dropped.
    """

    block_size: int
    bos_token_id: int | None
    eos_token_id: int | None
    with_document_ids: bool
    start_token_id: int | None = None
    with_labels: bool = False

    def __post_init__(self) -> None:
        self._num_documents = self._num_blocks = 0
        self._carry = np.zeros((3, 0), dtype=np.int32)
        self._before = self.start_token_id

    @property
    def features(self) -> datasets.Features:
        """``input_ids`` (L,), ``num_bytes``; for evaluation also ``document_ids`` (L,), -1 at BOS, and ``index``.

        With labels also ``labels`` (L,).
        """
        ids = datasets.List(datasets.Value("int32"))
        features = {"input_ids": ids, "num_bytes": datasets.Value("int64")}
        if self.with_labels:
            features["labels"] = ids
        if self.with_document_ids:
            features |= {"document_ids": ids, "index": datasets.Value("int64")}
        return datasets.Features(features)

    @property
    def width(self) -> int:
        """Tokens of the stream in a block."""
        return self.block_size - 1

    def tokens_of(self, encoded: datasets.Dataset, tokens: int) -> int:
        """Return how long the stream of encoded documents of so many tokens is."""
        return tokens if self.eos_token_id is None else tokens + len(encoded) - 1

    def __call__(self, table: pa.Table) -> pa.Table:
        stream = np.concatenate([self._carry, self._stream(table)], axis=1)
        width = self.width
        num_blocks = stream.shape[1] // width
        self._carry = stream[:, num_blocks * width :]
        return self._table(stream[:, : num_blocks * width].reshape(3, num_blocks, width))

    def _table(self, blocks: np.ndarray) -> pa.Table:
        """The columns of (3, N, block_size - 1) blocks: ids, bytes, document numbers."""
        num_blocks = blocks.shape[1]
        ids, num_bytes, document_ids = blocks
        columns = {
            "input_ids": self._lists(ids, self._before_blocks(ids) if self.bos_token_id is None else self.bos_token_id),
            "num_bytes": pa.array(num_bytes.sum(axis=1, dtype=np.int64)),
        }
        if self.with_labels:
            columns["labels"] = self._lists(ids, IGNORED)
        if self.with_document_ids:
            columns["document_ids"] = self._lists(document_ids, -1)
            columns["index"] = pa.array(np.arange(num_blocks) + self._num_blocks)
        self._num_blocks += num_blocks
        return pa.table(columns)

    def _stream(self, table: pa.Table) -> np.ndarray:
        """Return the table's tokens with separators as (3, T) int32: ids, bytes, document numbers."""
        lists = table.column("input_ids").combine_chunks()
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        numbers = np.arange(len(lengths), dtype=np.int32) + self._num_documents
        stream = np.stack(
            [
                lists.flatten().to_numpy(),
                table.column("token_bytes").combine_chunks().flatten().to_numpy(),
                np.repeat(numbers, lengths),
            ]
        )
        if self.eos_token_id is not None:
            stream = self._separated(stream, lengths, numbers)
        self._num_documents += len(lengths)
        return stream

    def _separated(self, stream: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The stream with EOS before each document but the very first, which belongs to the one that it ends."""
        first = 0 if self._num_documents else 1
        starts = (np.cumsum(lengths) - lengths)[first:]
        separators = np.stack([np.full_like(starts, self.eos_token_id), np.zeros_like(starts), numbers[first:] - 1])
        return np.insert(stream, starts, separators, axis=1)

    def _before_blocks(self, ids_NW: np.ndarray) -> np.ndarray:
        """(N,) the token of the stream before each block."""
        assert self._before is not None, "without BOS the first block needs start_token_id"
        before_N = np.append(self._before, ids_NW[:, -1]).astype(np.int32)
        self._before = int(before_N[-1])
        return before_N[:-1]

    def _lists(self, rows: np.ndarray, first: int | np.ndarray) -> pa.ListArray:
        filled = np.insert(rows, 0, first, axis=1)
        offsets = np.arange(len(rows) + 1, dtype=np.int32) * self.block_size
        return pa.ListArray.from_arrays(offsets, filled.reshape(-1))


def pack_documents(
    encoded: datasets.Dataset, packer: Packer, *, key: list[str], where: str
) -> tuple[datasets.Dataset, int]:
    """Return the blocks of encoded documents (columns: ``Packer.features``; cached) and the number of tokens dropped.

    ``key`` names everything ``encoded`` depends on; ``where`` is for messages.

    Raises:
        UserError: the text is shorter than one block.
    """
    width = packer.width
    num_tokens = pc.sum(pc.list_value_length(encoded.data.column("input_ids"))).as_py() or 0
    num_tokens = packer.tokens_of(encoded, num_tokens)
    if num_tokens < width:
        raise UserError(
            f"{where} has {num_tokens:,} tokens, fewer than one block of {packer.block_size:,} needs ({width:,}): "
            f"lower block_size to at most {num_tokens + packer.block_size - width:,}, or give more text"
        )
    blocks = cached_map(
        encoded,
        packer,
        kind="blocks",
        key=[*key, repr(packer), code_digest(__file__, str(sys.modules[type(packer).__module__].__file__))],
        features=packer.features,
        description="Packing blocks",
    )
    return blocks, num_tokens - len(blocks) * width
