"""The rows that wait for the model, and which of them go together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .refusals import ending, queue_full
from .rows import Piece, Row


class WaitingRows:
    """A queue of bounded length.

    Args:
        most: rows that may wait.
        fits: whether rows of two lengths of prompts may be padded to one.
    """

    def __init__(self, most: int, fits: Callable[[int, int], bool]) -> None:
        self._most, self._fits = most, fits
        self._rows: list[Row] = []
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        """Rows that wait and are still wanted."""
        with self._changed:
            return sum(not row.unwanted for row in self._rows)

    def put(self, rows: Sequence[Row]) -> None:
        """Let the rows of one request wait, all or none.

        Raises:
            Refusal: too many wait, or the server ends.
        """
        with self._changed:
            if self._closed:
                raise ending()
            self._rows = [row for row in self._rows if not row.unwanted]
            if len(self._rows) + len(rows) > self._most:
                raise queue_full(self._most)
            self._rows += rows
            self._changed.notify()

    def take(self, most: int) -> list[Row]:
        """Wait for rows, and take the oldest with those of the same settings that are nearest to it in length.

        Returns:
            At most ``most``, shortest prompt first; none once the queue is closed and empty.
        """
        with self._changed:
            while True:
                self._rows = [row for row in self._rows if not row.unwanted]
                if self._rows:
                    break
                if self._closed:
                    return []
                self._changed.wait()
            oldest = self._rows[0]
            alike = [
                row for row in self._rows if row.settings == oldest.settings and self._fits(row.length, oldest.length)
            ]
            alike.sort(key=lambda row: abs(row.length - oldest.length))  # stable: of equal ones the older first
            batch = alike[:most]
            taken = set(map(id, batch))
            self._rows = [row for row in self._rows if id(row) not in taken]
            return sorted(batch, key=lambda row: row.length)

    def close(self) -> None:
        """Take no more; what waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def refuse_all(self) -> None:
        """Hand out nothing any more: all that wait are told that the server ends."""
        with self._changed:
            rows, self._rows = self._rows, []
            self._closed = True
            self._changed.notify_all()
        for row in rows:
            row.finish(Piece(refusal=ending()))
