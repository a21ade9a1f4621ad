"""Pieces of documents to rows that hold several of them, each apart from the others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from ..collator import IGNORED
from ..options import BEST_FIT


class OpenRows:
    """Puts pieces into rows as they come; which row each gets depends on those before it alone.

    Args:
        size: tokens of a row.
        how: ``documents``: into the last row, or a new one; ``best-fit``: into the fullest row that has room, or a new one.

    Attributes:
        rows: numbers of the pieces of each row.
    """

    def __init__(self, size: int, how: str) -> None:
        self.size = size
        self.fits_best = how == BEST_FIT
        self.rows: list[list[int]] = []
        self._room = 0  # of the last row
        self._with_room: list[list[int]] = [[] for _ in range(size + 1)]  # rows by the room they have
        self._rooms = 0  # bit r: there is a row with room r

    def add(self, piece: int, length: int) -> None:
        """Put a piece of ``length`` tokens, at most ``size``, into a row."""
        if not self.fits_best:
            if length > self._room:
                self.rows.append([])
                self._room = self.size
            self.rows[-1].append(piece)
            self._room -= length
            return
        enough = self._rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            row = self._with_room[room].pop()
            if not self._with_room[room]:
                self._rooms &= ~(1 << room)
        else:
            row, room = len(self.rows), self.size
            self.rows.append([])
        self.rows[row].append(piece)
        left = room - length
        if left > 1:  # BOS alone is no document
            self._with_room[left].append(row)
            self._rooms |= 1 << left


def rows_of(lengths: Iterable[int], size: int, how: str) -> list[list[int]]:
    """Return the numbers of the pieces in each row; see :class:`OpenRows`."""
    open_rows = OpenRows(size, how)
    for piece, length in enumerate(lengths):
        open_rows.add(piece, int(length))
    return open_rows.rows


class PackedRows(Dataset[dict[str, np.ndarray]]):
    """Rows of several documents by their number, from pieces that are held.

    Args:
        pieces: rows with ``input_ids`` and perhaps ``labels``, each at most a row long; mapped into memory.
        rows: numbers of the pieces in each row.
    """

    holds_documents = True

    def __init__(self, pieces: datasets.Dataset, rows: list[list[int]]) -> None:
        self.pieces = pieces.select_columns([name for name in ("input_ids", "labels") if name in pieces.column_names])
        self._order = np.array([piece for row in rows for piece in row], dtype=np.int64)
        self._bounds = np.cumsum([0, *map(len, rows)])
        digest = hashlib.sha256(pieces._fingerprint.encode())
        digest.update(self._order.tobytes() + self._bounds.tobytes())
        self._fingerprint = digest.hexdigest()
        self._columns: dict[str, _Ragged] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_columns": None}

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Return ``input_ids``, ``labels`` (-100 at the first token of each document, and at other context), ``piece_ids``.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        if self._columns is None:
            self._columns = {name: _Ragged(self.pieces, name) for name in self.pieces.column_names}
        pieces = self._order[self._bounds[index] : self._bounds[index + 1]].tolist()
        ids, labels = self._columns["input_ids"], self._columns.get("labels")
        return packed_row([(piece, ids[piece], None if labels is None else labels[piece]) for piece in pieces])

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of all pieces, row by row."""
        return self._order


def packed_row(pieces: Iterable[tuple[int, np.ndarray, np.ndarray | None]]) -> dict[str, np.ndarray]:
    """Return a row of pieces: of each its number, its ids, and its labels; None: all but its first token is scored."""
    ids, labels, numbers = [], [], []
    for number, ids_T, labels_T in pieces:
        ids.append(ids_T)
        if labels_T is None:
            labels_T = ids_T.copy()
            labels_T[0] = IGNORED
        labels.append(labels_T)
        numbers.append(np.full(len(ids_T), number, dtype=np.int64))
    return {"input_ids": np.concatenate(ids), "labels": np.concatenate(labels), "piece_ids": np.concatenate(numbers)}


def lengths_of(rows: datasets.Dataset) -> np.ndarray:
    """(N,) tokens of each row."""
    column = rows.select_columns("input_ids").with_format("arrow")[:]["input_ids"]
    return np.concatenate(list(_lengths(column))) if len(rows) else np.zeros(0, dtype=np.int64)


def _lengths(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    for chunk in column.chunks:
        yield chunk.value_lengths().to_numpy(zero_copy_only=False)


class _Ragged:
    """A column of lists by their number, where they lie: no list is copied before it is asked for."""

    def __init__(self, rows: datasets.Dataset, name: str) -> None:
        column = rows.select_columns(name).with_format("arrow")[:][name]
        self._parts = [
            (chunk.flatten().to_numpy(), np.append(0, np.cumsum(chunk.value_lengths().to_numpy(zero_copy_only=False))))
            for chunk in column.chunks
        ]
        self._first = np.cumsum([0, *(len(bounds) - 1 for _, bounds in self._parts)])

    def __getitem__(self, number: int) -> np.ndarray:
        part = int(np.searchsorted(self._first, number, side="right")) - 1
        values, bounds = self._parts[part]
        at = number - self._first[part]
        return values[bounds[at] : bounds[at + 1]]
