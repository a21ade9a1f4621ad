"""The process that draws the dashboard of a training that goes on, so that the training need not wait for pictures.

Run as ``python -m hf_difflm.runs.dashboard_process JOURNAL FOLDER --parent PID --begin STEP``. It reads requests from
stdin, one a line: a number of optimiser steps draws the run up to there, ``end`` draws it as it is and ends, ``end
wait`` first waits until the journal says how the run ended. Where several wait, only the newest is drawn. It ends by
itself with the process that started it, and when nothing was asked for a long time. Its last line on stdout is JSON:
``{"cpu_seconds": ..., "pictures": ..., "problem": ...}``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

IDLE_SECONDS = 600.0
_LOOK_SECONDS = 1.0  # how often to see whether the parent lives, where no signal tells
_ENDING_SECONDS = 10.0
_KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what stdin asks for until it says ``end``, is closed, or nobody is there to ask."""
    parser = argparse.ArgumentParser(description="draws the dashboard of a running training")
    parser.add_argument("journal", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parent", type=int, required=True, help="process to end with")
    parser.add_argument("--begin", type=int, help="step at which the training begins: later pictures are old")
    parser.add_argument("--nice", type=int, default=19, help="how far to step back behind other processes, 0 to 19")
    parser.add_argument(
        "--no-signal", action="store_true", help="look after the parent instead of waiting for a signal"
    )
    options = parser.parse_args(arguments)
    end_with(options.parent, not options.no_signal)
    step_back(options.nice)
    # Only now, for it takes a second: matplotlib and numpy.
    from .dashboard_drawer import Drawer

    gc.freeze()  # what has been imported stays: no drawing need look through it
    drawer = Drawer(options.journal, options.folder, options.begin)
    for request in requests(options.parent):
        if request.startswith("end"):
            step_forward()
        drawer.draw(int(request) if request.isdigit() else None, wait=_ENDING_SECONDS if request == "end wait" else 0.0)
    print(drawer.account(), flush=True)


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
    # In a session of its own a process is weighed against the training as a group, and as a group it must be nice.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(nice))


def step_forward() -> None:
    """Be as important as others again, where that is allowed: the training has ended and waits for the last picture."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        Path("/proc/self/autogroup").write_text("0")


def requests(parent: int, idle_seconds: float = IDLE_SECONDS) -> Iterator[str]:
    """Yield the newest of the requests that wait, the last of all being ``end``; stop when nobody can ask any more."""
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
            newest = lines[-1].decode()
            yield newest
            if newest.startswith("end"):
                return
            last = time.monotonic()


if __name__ == "__main__":
    main()
