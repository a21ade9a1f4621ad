"""The server's life: an address to listen on, an end that lets running requests finish."""

from __future__ import annotations

import contextlib
import copy
import ipaddress
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from ...errors import UserError
from ...evaluation.targets import Target
from .answering import Answering
from .application import Routes
from .metrics import Metrics
from .options import ServeOptions
from .served_model import ServedModel
from .waiting import WaitingRows
from .writer import Writer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 2.0
"""Seconds after the grace in which answers are sent and the last step comes to its end."""


def serve_until_told(target: Target, name: str, options: ServeOptions, api_key: str | None, listener: Any) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish what runs, for ``options.grace_seconds`` at most.

    Args:
        target: the model.
        name: what clients call it.
        options: limits.
        api_key: what clients must know; None: nothing.
        listener: a bound socket, see :func:`bound`.
    """
    routes, writer = parts_of(target, name, options, api_key)
    config = uvicorn.Config(
        routes.application(),
        lifespan="off",
        ws="none",
        log_level="info" if options.access_log else "warning",
        log_config=_access_log() if options.access_log else None,
        access_log=options.access_log,
        server_header=False,
        timeout_graceful_shutdown=round(options.grace_seconds + _PATIENCE) + 1,
    )
    writer.start()
    _Server(config, routes, writer, options.grace_seconds).run(sockets=[listener])
    writer.give_up()
    writer.join(timeout=10)


def parts_of(target: Target, name: str, options: ServeOptions, api_key: str | None) -> tuple[Routes, Writer]:
    """Return the routes, and the thread behind them, which is not started yet; see :func:`serve_until_told`."""
    served = ServedModel(target, name, options.max_length)
    waiting = WaitingRows(options.max_queue, served.go_together)
    metrics = Metrics(lambda: len(waiting))
    answering = Answering(served, waiting, metrics, options.request_seconds, options.max_queue)
    routes = Routes(served, answering, metrics, options.max_body_bytes, options.request_seconds, api_key)
    return routes, Writer(served, waiting, metrics, options.max_batch)


class _Server(uvicorn.Server):
    """Ends by itself, and not by the signal, which uvicorn would send to the process again."""

    def __init__(self, config: uvicorn.Config, routes: Routes, writer: Writer, grace_seconds: float) -> None:
        super().__init__(config)
        self._routes, self._writer, self._grace_seconds = routes, writer, grace_seconds

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {one: signal.signal(one, self._told) for one in _SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _told(self, *unused: Any) -> None:
        """The first signal begins the end; the second does not wait for those who run."""
        if self.should_exit:
            self._writer.give_up()
            self.force_exit = True
            return
        self._routes.is_ending = self.should_exit = True
        timer = threading.Timer(self._grace_seconds, self._writer.give_up)
        timer.daemon = True
        timer.start()


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address, and not yet listening.

    Raises:
        UserError: there is no such address, or another program has it.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host!r} is no address of this machine; give one, such as 127.0.0.1") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on port {port} of {host} ({error.strerror}); give another --port (0 takes a free one) or --host"
        ) from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the base of the addresses that clients ask."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _access_log() -> dict[str, Any]:
    """uvicorn's own, on stderr."""
    config = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    return config
