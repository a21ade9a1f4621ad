"""Bring many small results from the device in one transfer."""

from __future__ import annotations

from collections.abc import Callable

import torch


class DeviceFetch:
    """Collect vectors on the device, then fetch all at once and give each to who wanted it."""

    def __init__(self) -> None:
        self._wanted: list[tuple[torch.Tensor, Callable[[list[float]], None]]] = []

    def add(self, values_N: torch.Tensor, use: Callable[[list[float]], None]) -> None:
        """Ask for ``use(numbers)`` to be called with the N numbers once they are here."""
        self._wanted.append((values_N, use))

    def run(self) -> None:
        """Wait for the device and hand out the numbers, in the order in which they were asked for."""
        if not self._wanted:
            return
        device = self._wanted[0][0].device
        wide = torch.float32 if device.type == "mps" else torch.float64
        numbers = torch.cat([values_N.to(device, wide, non_blocking=True) for values_N, _ in self._wanted]).tolist()
        start = 0
        for values_N, use in self._wanted:
            use(numbers[start : start + len(values_N)])
            start += len(values_N)
        self._wanted = []
