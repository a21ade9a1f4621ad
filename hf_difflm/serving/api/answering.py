"""From a request to its answer: lets its rows wait, hands out what is written, and takes them back when the client goes."""

from __future__ import annotations

import asyncio
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


class Events(StreamingResponse):
    """A stream of events, which counts its request itself, at its end."""

    counts_itself = True


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
            loop.call_soon_threadsafe(news.set)

        seconds = deadline - time.monotonic()
        rows, prompt_tokens = await loop.run_in_executor(
            self._encoding, rows_of, asked, self._served, seconds, self._max_queue, wake
        )
        self._waiting.put(rows)
        progress = _Progress(rows, news, deadline, self._request_seconds)
        wire = Wire(asked, self._served.name)
        gone = asyncio.create_task(_gone(request))
        try:
            if not asked.stream:
                return await self._whole(progress, wire, prompt_tokens, gone)
            first = await progress.more(gone)
        except BaseException:
            progress.give_up()
            raise
        finally:
            gone.cancel()
        if first is None:
            progress.give_up()
            return Response(status_code=GONE)
        events = self._events(progress, first, wire, prompt_tokens, count)
        return Events(events, headers={"cache-control": "no-store"}, media_type="text/event-stream")

    async def _whole(self, progress: _Progress, wire: Wire, prompt_tokens: int, gone: asyncio.Task[None]) -> Response:
        texts = [""] * len(progress.rows)
        last: list[Piece] = [Piece()] * len(progress.rows)
        while not progress.complete:
            pieces = await progress.more(gone)
            if pieces is None:
                progress.give_up()
                return Response(status_code=GONE)
            for index, piece in pieces:
                texts[index] += piece.delta
                last[index] = piece
        usage = self._counted(prompt_tokens, progress)
        return as_response(wire.whole(list(zip(texts, last, strict=True)), usage))

    async def _events(
        self,
        progress: _Progress,
        pieces: list[tuple[int, Piece]] | None,
        wire: Wire,
        prompt_tokens: int,
        count: Count,
    ) -> AsyncIterator[str]:
        status = GONE
        begun: set[int] = set()
        try:
            while pieces is not None:
                for index, piece in pieces:
                    if index not in begun and (role := wire.role(index)):
                        yield role
                    begun.add(index)
                    yield wire.event(index, piece)
                pieces = None if progress.complete else await progress.more()
            yield wire.usage(self._counted(prompt_tokens, progress)) + DONE
            status = 200
        except Refusal as refusal:
            status = refusal.status
            yield error_event(refusal.body())
        finally:
            progress.give_up()
            count(status)

    def _counted(self, prompt_tokens: int, progress: _Progress) -> dict[str, int]:
        self._metrics.prompt_tokens.inc(prompt_tokens)
        self._metrics.completion_tokens.inc(progress.tokens)
        return usage_of(prompt_tokens, progress.tokens)


class _Progress:
    """How the rows of one request go.

    Attributes:
        tokens: of the texts that have ended.
    """

    def __init__(self, rows: list[Row], news: asyncio.Event, deadline: float, seconds: float) -> None:
        self.rows, self._news, self._deadline, self._seconds = rows, news, deadline, seconds
        self._open = set(range(len(rows)))
        self.tokens = 0

    @property
    def complete(self) -> bool:
        return not self._open

    async def more(self, gone: asyncio.Task[None] | None = None) -> list[tuple[int, Piece]] | None:
        """Wait for pieces, each with the number of its row; None once the client has gone.

        Raises:
            Refusal: one row has no text, or the time is over.
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
            if pieces:
                return pieces
            waited: set[asyncio.Task[Any]] = {asyncio.create_task(self._news.wait())}
            left = max(self._deadline - time.monotonic(), 0)
            done, _ = await asyncio.wait(
                waited | ({gone} if gone else set()), timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            for task in waited - done:
                task.cancel()
            if gone in done:
                return None
            if not done:
                raise too_slow(self._seconds)

    def give_up(self) -> None:
        """Nobody waits for what is left."""
        for row in self.rows:
            row.gone = True


async def _gone(request: Request) -> None:
    """Return when the client closes the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
