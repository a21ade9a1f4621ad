"""The thread that owns the model: takes rows that go together, and writes them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from ...errors import UserError
from ...evaluation.generation.texts import GeneratedText, GenerationStart
from .batch_streamer import BatchStreamer
from .growing_text import STOP
from .metrics import Metrics
from .refusals import Refusal, broken, ending
from .rows import Piece, Row
from .served_model import ServedModel
from .waiting import WaitingRows

logger = logging.getLogger(__name__)


class Writer(threading.Thread):
    """Writes what waits, until the queue is closed and empty.

    Args:
        served: the model.
        waiting: the rows.
        metrics: counts.
        max_batch: most rows at once.
    """

    def __init__(self, served: ServedModel, waiting: WaitingRows, metrics: Metrics, max_batch: int) -> None:
        super().__init__(name="hf-difflm writer", daemon=True)  # one forward may outlast the patience of who ends it
        self._served, self._waiting, self._metrics, self._max_batch = served, waiting, metrics, max_batch
        self._running: Sequence[Row] = ()
        metrics.count_forwards(served.target.model)

    def run(self) -> None:
        while rows := self._waiting.take(self._max_batch):
            self._running = rows
            self._metrics.running.set(len(rows))
            self._metrics.batch_rows.observe(len(rows))
            now = time.monotonic()
            for row in rows:
                self._metrics.queue_seconds.observe(now - row.arrived)
            self._write(rows)
            self._metrics.dropped_rows.inc(sum(not row.done for row in rows))
            self._running = ()
            self._metrics.running.set(0)

    def give_up(self) -> None:
        """Tell those whose texts are being written, or wait, that the server ends."""
        self._waiting.refuse_all()
        for row in self._running:
            row.finish(Piece(refusal=ending()))

    def _write(self, rows: Sequence[Row]) -> None:
        """Write rows together; where one of several makes that fail, each alone."""
        try:
            self._write_together(rows)
        except Exception as error:  # whatever it is, the next request is answered
            if len(rows) > 1:
                for row in rows:
                    if not row.unwanted:
                        self._write([row])
                return
            if isinstance(error, UserError):
                rows[0].finish(Piece(refusal=Refusal(400, str(error), code="invalid_value")))
            else:
                logger.exception("a text could not be written")
                rows[0].finish(Piece(refusal=broken()))

    def _write_together(self, rows: Sequence[Row]) -> None:
        served = self._served

        def watch(start: GenerationStart) -> BatchStreamer:
            return BatchStreamer(start, [rows[number] for number in start.rows], served.decode, way, served.ends)

        way = served.way(rows[0].options, rows[0].importance)
        for row, sample in zip(rows, served.written(rows, watch), strict=True):
            if not row.unwanted:
                row.finish(_filled_in(row, sample))


def _filled_in(row: Row, sample: GeneratedText) -> Piece:
    """The only piece of a prompt whose holes are filled: its text cannot be told from the left."""
    tokens = row.new_tokens + sum(end - begin for begin, end in row.encoded.spans)
    return Piece(sample.text, None, STOP, tokens, sample.fills)
