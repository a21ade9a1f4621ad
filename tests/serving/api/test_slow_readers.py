"""A client that takes an answer's beginning and reads no further is left when the time is over."""

from __future__ import annotations

import asyncio

from hf_difflm.serving.api.answering import Events


def test_a_stream_that_nobody_reads_ends_and_tells_so():
    async def run() -> list[str]:
        told: list[str] = []

        async def events():
            while True:
                yield "data: {}\n\n"

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            told.append(message["type"])
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()  # as where the buffers to a client are full

        response = Events(events(), 0.1, lambda: told.append("ended"))
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        return told

    assert asyncio.run(run()) == ["http.response.start", "http.response.body", "ended"]
