"""Puts a clock, and a switch, around the hooks of callbacks."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback

ONCE = ("on_init_end", "on_train_begin", "on_train_end")


def clock_hooks(
    callback: TrainerCallback,
    seconds: defaultdict[str, float],
    is_on: Callable[[], bool] = lambda: True,
    cpu_seconds: defaultdict[str, float] | None = None,
) -> None:
    """Add the seconds of each hook of this callback to ``seconds``; skip the hook where ``is_on()`` is false.

    ``cpu_seconds`` get the processor time of the training thread in them, which others on the machine hardly change. What is
    paid once a run (:data:`ONCE`) is always called.
    """
    for name in (name for name in dir(callback) if name.startswith("on_")):
        hook = getattr(callback, name)
        if getattr(type(callback), name, None) is not getattr(TrainerCallback, name, None):
            setattr(callback, name, _clocked(name, hook, seconds, is_on, cpu_seconds))


def _clocked(
    name: str,
    hook: Callable[..., Any],
    seconds: defaultdict[str, float],
    is_on: Callable[[], bool],
    cpu_seconds: defaultdict[str, float] | None,
) -> Callable[..., Any]:
    @functools.wraps(hook)
    def clocked(*arguments: Any, **named: Any) -> Any:
        if name not in ONCE and not is_on():
            return None
        cpu_start = time.thread_time()
        start = time.perf_counter()
        try:
            return hook(*arguments, **named)
        finally:
            seconds[name] += time.perf_counter() - start
            if cpu_seconds is not None:
                cpu_seconds[name] += time.thread_time() - cpu_start

    return clocked
