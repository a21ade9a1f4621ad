"""Bytes and processor seconds of a process, as Linux counts them."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def resident(process: int | str = "self") -> int:
    """Bytes of this process, or of one by its number, now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak() -> int:
    """Bytes of this process at most, from Linux: ``ru_maxrss`` would begin with those of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def processor_seconds(process: int | str = "self") -> float:
    """Seconds that all threads of a process have computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
