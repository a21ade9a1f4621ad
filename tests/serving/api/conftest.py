"""Servers of tiny models, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from tiny_targets import target_of

from hf_difflm.evaluation.targets import Target
from hf_difflm.serving.api.application import Routes
from hf_difflm.serving.api.listening import bound, parts_of
from hf_difflm.serving.api.options import ServeOptions
from hf_difflm.serving.api.writer import Writer


@dataclass
class Served:
    """A server in a thread.

    Args:
        address: its base.
        target: its model.
        routes, writer: its parts.
    """

    address: str
    target: Target
    routes: Routes
    writer: Writer

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.address}{path}", json=body, timeout=120, **more)

    def metric(self, line: str) -> float:
        """The number on the line of a metric that begins so; 0 where there is none."""
        lines = httpx.get(f"{self.address}/metrics").text.splitlines()
        return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(line + " ")), 0.0)

    def wait_for(self, line: str, number: float) -> None:
        """Wait until a metric has come to a number."""
        deadline = time.monotonic() + 60
        while self.metric(line) != number:
            assert time.monotonic() < deadline, f"{line} is {self.metric(line)} and not {number}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Served]]:
    """``serve("mdlm", api_key=None, **options)``: the same server for the same arguments, until the module ends."""
    running: dict[str, tuple[Served, uvicorn.Server, threading.Thread]] = {}

    def call(kind: str = "mdlm", api_key: str | None = None, **options: Any) -> Served:
        name = repr((kind, api_key, sorted(options.items())))
        if name not in running:
            target = target_of(kind)
            routes, writer = parts_of(target, "tiny", ServeOptions(**options), api_key)
            listener = bound("127.0.0.1", 0)
            server = uvicorn.Server(uvicorn.Config(routes.application(), lifespan="off", ws="none", log_config=None))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            writer.start()
            thread.start()
            host, port = listener.getsockname()
            running[name] = Served(f"http://{host}:{port}", target, routes, writer), server, thread
        return running[name][0]

    yield call
    for served, server, thread in running.values():
        served.writer.give_up()
        server.should_exit = True
        thread.join(timeout=30)
        served.writer.join(timeout=30)
        assert not thread.is_alive()
        assert not served.writer.is_alive()
