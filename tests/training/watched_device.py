"""A device without numbers, on which a real training runs; every moment at which the host would wait for it is counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
_ATEN = torch.ops.aten
_COPIES = (_ATEN._to_copy.default, _ATEN.copy_.default)


class DeviceWaits(TorchDispatchMode):
    """Counts, by step, what makes the host wait for tensors on :data:`DEVICE`; what it reads from there is 0.

    On a GPU these wait: a number that is read (``item``, ``tolist``, ``bool``, ``cpu``), a size that depends on numbers
    (``nonzero``, an index of booleans), and a copy to the device that is not ``non_blocking``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.by_step: defaultdict[int, Counter[str]] = defaultdict(Counter)

    def note(self, what: str) -> None:
        self.by_step[self.step][what] += 1

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        if function is _ATEN._local_scalar_dense.default and _there(arguments[0]):
            self.note("read: a number")
            return torch.zeros((), dtype=arguments[0].dtype).item()
        if function is _ATEN.nonzero.default and _there(arguments[0]):
            self.note("size: nonzero")
            return torch.empty(0, arguments[0].ndim, dtype=torch.long, device=DEVICE)
        if function is _ATEN.index.Tensor and _there(arguments[0]):
            for index in (index for index in arguments[1] if index is not None):
                if index.dtype == torch.bool:
                    self.note("size: an index of booleans")
                elif not _there(index):
                    self.note("copy there: an index")
        if function in _COPIES:
            return self._copy(function, arguments, named)
        return function(*arguments, **named)

    def _copy(self, function: Any, arguments: Any, named: Any) -> Any:
        is_new = function is _ATEN._to_copy.default
        source = arguments[0] if is_new else arguments[1]
        to = named.get("device") or source.device if is_new else arguments[0].device
        goes = torch.device(to).type
        if _there(source) and goes != DEVICE.type:
            self.note("read: a tensor")
            zeros = torch.zeros(source.shape, dtype=named.get("dtype") or source.dtype)
            return zeros if is_new else arguments[0].zero_()
        blocking = not (named.get("non_blocking") if is_new else (arguments[2:3] or [False])[0])
        if not _there(source) and goes == DEVICE.type and blocking:
            self.note("copy there: a tensor")
        return function(*arguments, **named)


class _NumbersSentThere(TorchFunctionMode):
    """``torch.tensor`` makes its tensor on the host and copies it, which no dispatch mode is told of."""

    def __init__(self, waits: DeviceWaits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        makes = function in (torch.tensor, torch.as_tensor) and named.get("device") is not None
        if makes and torch.device(named["device"]) == DEVICE and not any(map(_there, tree_leaves(arguments))):
            self._waits.note("copy there: numbers")
        return function(*arguments, **named)


@contextmanager
def counted_waits() -> Iterator[DeviceWaits]:
    """Inside the block, every wait for the device is counted."""
    waits = DeviceWaits()
    with waits, _NumbersSentThere(waits):
        yield waits


def _there(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == DEVICE.type
