"""How much memory a process has needed, and how busy its device is. Nothing here waits for the device."""

from __future__ import annotations

import logging
import sys

import torch

logger = logging.getLogger(__name__)

MEBIBYTE = 2**20


def peak_memory_mb(device: torch.device) -> float | None:
    """Return the most memory tensors have taken on a device since the process began, in MiB; None where that is not known.

    Known for CUDA and ROCm, Intel's XPU and whatever else has ``torch.<device>.max_memory_allocated``; not for MPS.
    """
    if device.type == "cpu":  # to look in torch for what is not there takes a while
        return None
    measure = getattr(getattr(torch, device.type, None), "max_memory_allocated", None)
    return None if measure is None else measure(device) / MEBIBYTE


def host_memory_mb() -> float | None:
    """Return the most memory this process has taken (resident set), in MiB; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MEBIBYTE if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere


class DeviceUtilization:
    """How busy a CUDA device was in the last second or so, as its driver says.

    Args:
        device: of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known = device.type == "cuda"

    def percent(self) -> float | None:
        """Return the share of time in which a kernel ran; None without CUDA, its ``nvidia-ml-py`` or the driver's leave."""
        if not self._known:
            return None
        try:
            return float(torch.cuda.utilization(self._device))
        except ImportError:  # of nvidia-ml-py
            self._known = False
        except Exception as error:  # a driver's own, whose class cannot be imported where its library is missing
            logger.warning("how busy the device is cannot be told: %s", error)
            self._known = False
        return None
