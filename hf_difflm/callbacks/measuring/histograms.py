"""Histograms counted on the device, of values that come in several portions, from several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist

BINS = 64
_PORTION = 2**24  # a float32 count is exact up to here
_OUTSIDE = 1e9  # histc leaves out what is outside of its range


def may_wait_for(device: torch.device) -> bool:
    """Whether looking at a result keeps nobody waiting."""
    return device.type == "cpu"


class Histogram:
    """Counts in 64 bins whose width is a power of two and whose edges are multiples of it.

    So when later values need a wider range, whole bins go into one bin: the counts are exact, whatever the order in
    which values come, and no value need be known beforehand. The range is as narrow as that allows: nearly half of it or
    more is used, unless the values differ by less than 0.1 % of their size. Values that are not finite are left out; what is
    2**-126 of a bin or less counts as 0.

    Args:
        device: where to count.
        may_wait: whether intermediate results may be looked at, which is faster where that means no waiting for the device;
            default: on a CPU. Either way the result is the same.

    Attributes:
        low_high_2: the least and the greatest value so far (infinite before the first), float32.
        counts_K: int64.
    """

    def __init__(self, device: torch.device, may_wait: bool | None = None) -> None:
        self.low_high_2 = torch.tensor([torch.inf, -torch.inf], device=device)
        self.counts_K = torch.zeros(BINS, dtype=torch.int64, device=device)
        self._add = self._add_looking if (may_wait_for(device) if may_wait is None else may_wait) else self._add_blindly

    def add(self, values: torch.Tensor, counted: torch.Tensor | None = None) -> None:
        """Count values of any shape; where ``counted`` is given, those where it is True (it must broadcast to them)."""
        values = values.detach()
        where = None if counted is None else counted.expand(values.shape).flatten()
        for start in range(0, values.numel(), _PORTION):
            part = values.flatten()[start : start + _PORTION].float()
            self._add(part, None if where is None else where[start : start + _PORTION])

    def add_all(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count the values of several tensors on one device, short ones at once: to count takes many short operations."""
        waiting: list[torch.Tensor] = []
        size = 0
        for tensor in tensors:
            if waiting and size + tensor.numel() > _PORTION:
                self.add(torch.cat(waiting))
                waiting, size = [], 0
            waiting.append(tensor.detach().flatten())
            size += tensor.numel()
        if waiting:
            self.add(waiting[0] if len(waiting) == 1 else torch.cat(waiting))

    def _add_looking(self, values_N: torch.Tensor, kept_N: torch.Tensor | None) -> None:
        """Select what counts, and count whole numbers."""
        if kept_N is not None:
            values_N = values_N[kept_N]
        if not len(values_N):
            return
        low_high_2 = torch.stack(values_N.aminmax())
        if not low_high_2.isfinite().all():
            self._add_looking(values_N, values_N.isfinite())
            return
        self.widen(low_high_2)
        width, first = _grid(self.low_high_2)
        bins_N = (values_N / width).floor_().sub_(first).int()
        self.counts_K += torch.bincount(bins_N, minlength=BINS)

    def _add_blindly(self, values_N: torch.Tensor, kept_N: torch.Tensor | None) -> None:
        """Count without waiting for the device."""
        finite_N = values_N.isfinite()
        kept_N = finite_N if kept_N is None else finite_N & kept_N
        low = values_N.where(kept_N, torch.inf).min()
        high = values_N.where(kept_N, -torch.inf).max()
        self.widen(torch.stack([low, high]))
        width, first = _grid(self.low_high_2)
        bins_N = ((values_N / width).floor() - first).where(kept_N, _OUTSIDE)
        self.counts_K += torch.histc(bins_N, BINS, 0, BINS).long()

    def widen(self, low_high_2: torch.Tensor) -> None:
        """Go over to the bins that hold these values, too."""
        width, first = _grid(self.low_high_2)
        low = torch.minimum(self.low_high_2[0], low_high_2[0])
        high = torch.maximum(self.low_high_2[1], low_high_2[1])
        self.low_high_2 = torch.stack([low, high])
        new_width, new_first = _grid(self.low_high_2)
        bins_K = torch.arange(BINS, device=self.counts_K.device) + first
        # Both are powers of two and the new one is no less, so this is exact.
        moved_K = (bins_K * (width / new_width)).floor() - new_first
        moved_K = moved_K.nan_to_num(0.0).clamp(0, BINS - 1).long()  # what is out of range is empty
        self.counts_K = torch.zeros_like(self.counts_K).scatter_add(0, moved_K, self.counts_K)

    def pack(self) -> torch.Tensor:
        """Return the (2 + 64,) numbers that :func:`unpacked` reads on the host."""
        width, first = _grid(self.low_high_2)
        wide = torch.float32 if self.counts_K.device.type == "mps" else torch.float64
        ends = torch.stack([width.to(wide) * first.to(wide), width.to(wide)])
        return torch.cat([ends, self.counts_K.to(wide)])


def unpacked(packed: list[float]) -> dict[str, Any] | None:
    """Return ``{"low", "high", "counts"}`` of a packed histogram; None where nothing was counted."""
    low, width, *counts = packed
    if not any(counts):
        return None
    return {"low": low, "high": low + BINS * width, "counts": [int(count) for count in counts]}


def keeper(histograms: dict[str, Any], name: str) -> Callable[[list[float]], None]:
    """Return what puts a packed histogram among others, if anything was counted."""

    def keep(packed: list[float]) -> None:
        histogram = unpacked(packed)
        if histogram is not None:
            histograms[name] = histogram

    return keep


def add_over_processes(histograms: list[Histogram], groups: tuple[Any, ...]) -> None:
    """Add up the histograms of all processes of each group; all of them must call this with as many histograms."""
    if not histograms:
        return
    for group in groups:
        ends_H2 = torch.stack([histogram.low_high_2 for histogram in histograms])
        ends_H2[:, 0].neg_()
        dist.all_reduce(ends_H2, dist.ReduceOp.MAX, group=group)
        ends_H2[:, 0].neg_()
        for histogram, ends_2 in zip(histograms, ends_H2, strict=True):
            histogram.widen(ends_2)
        counts_HK = torch.stack([histogram.counts_K for histogram in histograms])
        dist.all_reduce(counts_HK, group=group)
        for histogram, counts_K in zip(histograms, counts_HK, strict=True):
            histogram.counts_K = counts_K


def _grid(low_high_2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the width of the bins for values from low to high, and the number of the first bin, counted from 0.0."""
    low, high = low_high_2
    size = torch.maximum(low.abs(), high.abs())
    # Each divided by itself: their difference may be more than a float32 holds. 60, not 64: rounding may cost a bin.
    spread = high / 60 - low / 60
    spread = torch.maximum(spread, (size * 2.0**-16).clamp(min=2.0**-40))
    # The next power of two, from the exponent's bits: exp2 is not exact on every device.
    width = ((spread.view(torch.int32) & 0x7F800000) + 0x00800000).view(torch.float32)
    return width, (low / width).floor()
