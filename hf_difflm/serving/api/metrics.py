"""What a server counts, in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server.

    Args:
        waiting: says how many texts wait.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        disable_created_metrics()  # a second series beside each, of when it began
        registry = self._registry = CollectorRegistry()

        def made(kind: type, name: str, words: str, labels: tuple[str, ...] = (), **more: Any) -> Any:
            return kind(f"hf_difflm_{name}", words, labels, registry=registry, **more)

        self.requests = made(
            Counter, "requests", "requests that have ended; 499: the client has gone", ("endpoint", "status")
        )
        self.request_seconds = made(
            Histogram, "request_seconds", "from a request's arrival to its end", ("endpoint",), buckets=_SECONDS
        )
        self.queue_seconds = made(Histogram, "queue_seconds", "from a text's arrival to its batch", buckets=_SECONDS)
        self.batch_rows = made(Histogram, "batch_rows", "texts of a batch", buckets=_ROWS)
        self.prompt_tokens = made(Counter, "prompt_tokens", "tokens of the prompts of answered requests")
        self.completion_tokens = made(Counter, "completion_tokens", "tokens of the texts of answered requests")
        self.forwards = made(Counter, "forwards", "forwards of the model")
        self.forward_rows = made(Counter, "forward_rows", "rows of these forwards")
        self.dropped_rows = made(Counter, "dropped_rows", "texts that were given up while they were written")
        made(Gauge, "queue_rows", "texts that wait").set_function(waiting)
        self.running = made(Gauge, "running_rows", "texts that are being written")

    def count_forwards(self, model: Any) -> None:
        """Count the forwards of a model from now on."""
        model.register_forward_pre_hook(self._forward, with_kwargs=True)

    def page(self) -> bytes:
        """All of it as text."""
        return generate_latest(self._registry)

    def _forward(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        self.forwards.inc()
        self.forward_rows.inc(0 if ids is None else len(ids))
