"""A process that works on the journal beside the training: asked without waiting, and gone when the training is."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import hf_difflm

logger = logging.getLogger(__name__)

_LAST_SECONDS = 120.0  # a second on a machine that is not busy; on a busy one the niced process waits
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "ARROW_IO_THREADS")


class JournalProcess:
    """A niced process that reads a journal and makes something of it, on request; see :mod:`hf_difflm.runs.derived.beside`.

    It is started again when it ended for want of requests. When it dies otherwise, that is one warning.

    Args:
        module: what it runs, which takes the arguments, ``--parent`` and ``--no-signal``.
        arguments: of the module.
        at_first: further arguments of the first start.
        complaint: what to say, before the reason, when it fails.

    Attributes:
        cpu_seconds: what the processes that ended took, start-up included; None until one has said so.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, module: str, arguments: Sequence[str], at_first: Sequence[str], complaint: str) -> None:
        self.cpu_seconds: float | None = None
        self._command = [sys.executable, "-m", module, *arguments]
        self._complaint = complaint
        self._gave_up = self._ending = False
        self._start(*at_first)

    def ask(self, request: str) -> None:
        """Send a request, a number of steps or one that begins with ``end``; never waits."""
        if self._gave_up or self._ending:
            return
        try:
            self._send(request)
        except BrokenPipeError:
            if self._process.wait() == 0:  # nothing was asked for long
                self._account()
                if not self._gave_up:
                    self._start()
                    self._send(request)
            else:
                self._account()

    def close(self) -> None:
        """Have the last of its work done, wait for it at most two minutes, and leave no process behind."""
        self.ask("end")
        if self._gave_up:
            return
        try:
            self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self._give_up(f"its last work was not done within {_LAST_SECONDS:.0f} s")
            self._process.kill()
        self._account()

    def stop(self) -> None:
        """End the process at once, or wait for its last work where that has been asked for."""
        self._finalizer()

    def _start(self, *more: str) -> None:
        # A file, not a pipe: a pipe that nobody reads would stop the process one day.
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
        read_end, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            self._process = subprocess.Popen(
                [*self._command, "--parent", str(os.getpid()), *_watch(), *more],
                stdin=read_end,
                stdout=self._said,
                stderr=self._said,
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the training
            )
        finally:
            os.close(read_end)
        # Where the training fails, nobody calls close: the process goes with this object or with the interpreter.
        self._finalizer = weakref.finalize(self, _end, self._process, self._pipe, 0.0)

    def _send(self, request: str) -> None:
        try:
            os.write(self._pipe, f"{request}\n".encode())
        except BlockingIOError:  # thousands of requests wait already
            return
        if request.startswith("end"):
            self._ending = True
            hurry(self._process.pid)  # it may still be importing, too nice to get to read this
            self._finalizer.detach()
            self._finalizer = weakref.finalize(self, _end, self._process, self._pipe, _LAST_SECONDS)

    def _account(self) -> None:
        self._finalizer()
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").splitlines()
        self._said.close()
        account: Any = None
        with contextlib.suppress(ValueError):  # it was killed, or ended with an error of its own
            account = json.loads(lines[-1]) if lines else None
        if isinstance(account, dict) and "cpu_seconds" in account:
            self.cpu_seconds = (self.cpu_seconds or 0.0) + account["cpu_seconds"]
            if account["problem"] is not None:
                self._give_up(account["problem"])
        elif not self._gave_up:
            self._give_up(lines[-1] if lines else f"it ended with code {self._process.returncode}")

    def _give_up(self, reason: str) -> None:
        if not self._gave_up:
            logger.warning("%s (%s); training goes on without it", self._complaint, reason)
        self._gave_up = True


def hurry(process: int) -> None:
    """Make a process as important as others, where that is allowed: the training has ended and waits for its last work."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, 0)
        Path(f"/proc/{process}/autogroup").write_text("0")


def _watch() -> list[str]:
    """The kernel's signal comes when the thread that started the process ends, and only the main one ends with it all."""
    return [] if threading.current_thread() is threading.main_thread() else ["--no-signal"]


def _environment() -> dict[str, str]:
    """Of this process, with one thread, and so that this very package is found and nothing of the working folder."""
    root = str(Path(hf_difflm.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        **dict.fromkeys(_ONE_THREAD, "1"),
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "MPLBACKEND": "agg",
    }


def _end(process: subprocess.Popen[bytes], pipe: int, seconds: float) -> None:
    """Let a process finish for so many seconds, then kill it; and close the pipe to it."""
    os.close(pipe)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
