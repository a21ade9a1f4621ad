"""What the processes that work beside a training have in common: they step back, take requests, and end with it."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

IDLE_SECONDS = 600.0
_LOOK_SECONDS = 1.0  # how often to see whether the parent lives, where no signal tells
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`begin` reads."""
    parser.add_argument("--parent", type=int, required=True, help="process to end with")
    parser.add_argument("--nice", type=int, default=19, help="how far to step back behind other processes, 0 to 19")
    parser.add_argument(
        "--no-signal", action="store_true", help="look after the parent instead of waiting for a signal"
    )


def begin(options: argparse.Namespace) -> None:
    """End with the parent and step back, as the options say."""
    end_with(options.parent, not options.no_signal)
    step_back(options.nice)


def end_with(parent: int, signalled: bool = True) -> None:
    """Have this process killed when its parent dies, however it dies, and end now if it has died already.

    Without the signal it is :func:`requests` that looks whether the parent lives.
    """
    with contextlib.suppress(OSError, AttributeError):  # other systems than Linux: looking at the parent must do
        if signalled:
            ctypes.CDLL(None, use_errno=True).prctl(_KILL_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def step_back(nice: int) -> None:
    """Leave the processor to others; at 19, take it only where nobody else wants it."""
    os.nice(nice)
    # In a session of its own a process is weighed against the training as a group, and as a group it must be nice. In
    # somebody else's session that would hold back the shell it was started from, and all that ever comes of it.
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))


def step_forward() -> None:
    """Be as important as others again, where that is allowed: the training has ended and waits for the last picture."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        Path("/proc/self/autogroup").write_text("0")


def requests(
    parent: int, passed: Callable[[str], object] | None = None, idle_seconds: float = IDLE_SECONDS
) -> Iterator[str]:
    """Yield the newest of the requests that wait, the last of all being ``end``; stop when nobody can ask any more.

    Args:
        parent: the process that asks.
        passed: told of each request that a newer one has overtaken.
        idle_seconds: without a request it ends after so long.
    """
    descriptor = sys.stdin.fileno()
    buffer = b""
    last = time.monotonic()
    while os.getppid() == parent and time.monotonic() - last < idle_seconds:
        if not select.select([descriptor], [], [], _LOOK_SECONDS)[0]:
            continue
        read = os.read(descriptor, 1 << 16)
        if not read:
            return
        *lines, buffer = (buffer + read).split(b"\n")
        if lines:
            if passed is not None:
                for line in lines[:-1]:
                    passed(line.decode())
            newest = lines[-1].decode()
            yield newest
            if newest.startswith("end"):
                return
            last = time.monotonic()
