"""From a request to its answer: lets its rows wait, hands out what is written, and takes them back when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from .bodies import as_response
from .metrics import Metrics
from .parameters import Asked
from .refusals import GONE, Refusal, too_slow
from .requests import rows_of
from .rows import Piece, Row
from .served_model import ServedModel
from .waiting import WaitingRows
from .wire import DONE, Wire, error_event, usage_of

Count = Callable[[int], None]
PATIENCE = 5.0
"""Seconds in which a client may still read that the time is over."""


class Events(StreamingResponse):
    """A stream of events, which ends its request itself, whatever becomes of the client.

    Args:
        events: the text of the stream.
        seconds: after which who does not read is left.
        ended: called at the end.
    """

    counts_itself = True

    def __init__(self, events: AsyncIterator[str], seconds: float, ended: Callable[[], None]) -> None:
        super().__init__(events, headers={"cache-control": "no-store"}, media_type="text/event-stream")
        self._seconds, self._ended = seconds, ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.wait_for(super().__call__(scope, receive, send), self._seconds)
        except (TimeoutError, asyncio.TimeoutError):
            return  # without an end, so that the connection is closed
        finally:
            self._ended()


class Answering:
    """Answers requests.

    Args:
        served: the model.
        waiting: where rows wait for it.
        metrics: counts.
        request_seconds: longest time of a request.
        max_queue: most texts that wait.
    """

    def __init__(
        self, served: ServedModel, waiting: WaitingRows, metrics: Metrics, request_seconds: float, max_queue: int
    ) -> None:
        self._served, self._waiting, self._metrics = served, waiting, metrics
        self._request_seconds, self._max_queue = request_seconds, max_queue
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="hf-difflm encoder")

    async def answer(self, request: Request, asked: Asked, deadline: float, count: Count) -> Response:
        """Return the answer, or the beginning of its stream.

        Args:
            request: to know when its client goes.
            asked: what is asked.
            deadline: by ``time.monotonic()``.
            count: told the status of a stream at its end.

        Raises:
            Refusal: there is none.
        """
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
                loop.call_soon_threadsafe(news.set)

        seconds = deadline - time.monotonic()
        rows, prompt_tokens = await loop.run_in_executor(
            self._encoding, rows_of, asked, self._served, seconds, self._max_queue, wake
        )
        self._waiting.put(rows)
        progress = _Progress(rows, news, deadline, self._request_seconds)
        wire = Wire(asked, self._served.name)
        watching = asyncio.create_task(progress.watch(request))
        try:
            if not asked.stream:
                return await self._whole(progress, wire, prompt_tokens)
            first = await progress.more()
        except _ClientGone:
            return Response(status_code=GONE)
        finally:
            watching.cancel()
            if not asked.stream or not progress.begun:
                progress.give_up()

        def ended() -> None:
            progress.give_up()
            count(progress.status)

        events = self._events(progress, first, wire, prompt_tokens)
        return Events(events, max(deadline - time.monotonic(), 0) + PATIENCE, ended)

    async def _whole(self, progress: _Progress, wire: Wire, prompt_tokens: int) -> Response:
        texts = [""] * len(progress.rows)
        last: list[Piece] = [Piece()] * len(progress.rows)
        while not progress.complete:
            for index, piece in await progress.more():
                texts[index] += piece.delta
                last[index] = piece
        usage = self._counted(prompt_tokens, progress)
        return as_response(wire.whole(list(zip(texts, last, strict=True)), usage))

    async def _events(
        self, progress: _Progress, first: list[tuple[int, Piece]], wire: Wire, prompt_tokens: int
    ) -> AsyncIterator[str]:
        begun, pieces = set[int](), first
        try:
            while True:
                for index, piece in pieces:
                    role = "" if index in begun else wire.role(index)
                    begun.add(index)
                    yield role + wire.event(index, piece)
                if progress.complete:
                    break
                pieces = await progress.more()
            yield wire.usage(self._counted(prompt_tokens, progress)) + DONE
            progress.status = 200
        except Refusal as refusal:
            progress.status = refusal.status
            yield error_event(refusal.body())

    def _counted(self, prompt_tokens: int, progress: _Progress) -> dict[str, int]:
        self._metrics.prompt_tokens.inc(prompt_tokens)
        self._metrics.completion_tokens.inc(progress.tokens)
        return usage_of(prompt_tokens, progress.tokens)


class _ClientGone(Exception):
    """Nobody is there to answer."""


class _Progress:
    """How the rows of one request go.

    Attributes:
        begun: whether there was a first piece.
        tokens: of the texts that have ended.
        status: of a stream; until it has come to its end, that of a client that has gone.
    """

    def __init__(self, rows: list[Row], news: asyncio.Event, deadline: float, seconds: float) -> None:
        self.rows, self._news, self._deadline, self._seconds = rows, news, deadline, seconds
        self._open = set(range(len(rows)))
        self._is_gone = self.begun = False
        self.tokens, self.status = 0, GONE

    @property
    def complete(self) -> bool:
        """Whether all texts have ended."""
        return not self._open

    async def watch(self, request: Request) -> None:
        """Notice that the client closes the connection."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._news.set()

    async def more(self) -> list[tuple[int, Piece]]:
        """Wait for pieces, each with the number of its row.

        Raises:
            Refusal: one row has no text, or the time is over.
            _ClientGone: see :meth:`watch`.
        """
        while True:
            self._news.clear()
            pieces = [(index, piece) for index, row in enumerate(self.rows) for piece in row.box.take()]
            for index, piece in pieces:
                if piece.refusal is not None:
                    raise piece.refusal
                if piece.last:
                    self._open.discard(index)
                    self.tokens += piece.tokens
            if self._is_gone:
                raise _ClientGone
            if pieces:
                self.begun = True
                return pieces
            try:
                await asyncio.wait_for(self._news.wait(), max(self._deadline - time.monotonic(), 0))
            except (TimeoutError, asyncio.TimeoutError):
                raise too_slow(self._seconds) from None

    def give_up(self) -> None:
        """Nobody waits for what is left."""
        for row in self.rows:
            row.gone = True
