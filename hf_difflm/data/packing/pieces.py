"""Encoded documents to pieces: each a document, or a part of one that is longer than a row, with a BOS of its own."""

from __future__ import annotations

from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa

from ..caching import cached_map, code_digest
from ..collator import IGNORED


@dataclass
class PiecePacker:
    """Cuts documents into pieces; called with one table of documents after the other, in order.

    A piece is BOS and at most ``block_size - 1`` scored tokens. EOS (unless ``eos_token_id`` is None) ends each document but
    one that fills its last piece without it; it belongs to the document, and stands for no bytes.

    Args:
        block_size: tokens of a row.
        first_token_id: what each piece begins with, which is context: BOS, or what stands in its place.
        eos_token_id: see above.
        with_labels: add ``labels``, which say that the first token is context; the collator knows the tokenizer's own BOS.
    """

    block_size: int
    first_token_id: int
    eos_token_id: int | None
    with_labels: bool = False

    def __post_init__(self) -> None:
        self._num_documents = self._num_pieces = 0

    @property
    def features(self) -> datasets.Features:
        """``input_ids`` and ``document_ids`` (-1 at BOS) of each piece, ``num_bytes``, ``index``; perhaps ``labels``."""
        ids = datasets.List(datasets.Value("int32"))
        features = {"input_ids": ids, "num_bytes": datasets.Value("int64")}
        if self.with_labels:
            features["labels"] = ids
        return datasets.Features(features | {"document_ids": ids, "index": datasets.Value("int64")})

    def __call__(self, table: pa.Table) -> pa.Table:
        width = self.block_size - 1
        lists = table.column("input_ids").combine_chunks()
        length_D = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        ids_T = lists.flatten().to_numpy()
        bytes_T = table.column("token_bytes").combine_chunks().flatten().to_numpy()
        document_T = np.repeat(np.arange(len(length_D)), length_D)
        if self.eos_token_id is not None:
            ends = (length_D % width != 0).astype(np.int64)  # else EOS would be a piece of its own
            after = np.cumsum(length_D)[ends > 0]
            ids_T = np.insert(ids_T, after, self.eos_token_id)
            bytes_T = np.insert(bytes_T, after, 0)
            document_T = np.insert(document_T, after, np.flatnonzero(ends))
            length_D = length_D + ends
        # Where in the documents each piece begins.
        pieces_D = -(-length_D // width)
        number_P = np.arange(pieces_D.sum()) - np.repeat(np.cumsum(pieces_D) - pieces_D, pieces_D)
        start_P = np.repeat(np.cumsum(length_D) - length_D, pieces_D) + number_P * width
        size_P = np.diff(np.append(start_P, length_D.sum()))
        offsets = np.append(0, np.cumsum(size_P + 1)).astype(np.int32)

        def lists_of(values_T: np.ndarray, first: int) -> pa.ListArray:
            return pa.ListArray.from_arrays(offsets, np.insert(values_T.astype(np.int32), start_P, first))

        sums = np.append(0, np.cumsum(bytes_T, dtype=np.int64))
        columns = {
            "input_ids": lists_of(ids_T, self.first_token_id),
            "num_bytes": pa.array(sums[start_P + size_P] - sums[start_P]),
        }
        if self.with_labels:
            columns["labels"] = lists_of(ids_T, IGNORED)
        columns["document_ids"] = lists_of(document_T + self._num_documents, -1)
        columns["index"] = pa.array(np.arange(len(start_P)) + self._num_pieces)
        self._num_documents += len(lists)
        self._num_pieces += len(start_P)
        return pa.table(columns)


def cut_documents(encoded: datasets.Dataset, packer: PiecePacker, *, key: list[str]) -> datasets.Dataset:
    """Return the pieces of encoded documents (columns: ``PiecePacker.features``; cached).

    Args:
        key: names everything ``encoded`` depends on.
    """
    return cached_map(
        encoded,
        packer,
        kind="pieces",
        key=[*key, repr(packer), code_digest(__file__)],
        features=packer.features,
        description="Cutting documents",
    )
