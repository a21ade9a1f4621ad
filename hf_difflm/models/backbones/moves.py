"""Which positions of a network's output move when one position of its input does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

MOVED = 1e-5  # of the scale: what is above has been read
DOUBTFUL = 1e-4  # of the scale: a side that moves, but by less, may be rounding; asked again in float64
_FINE = 1e-10  # of the scale, in float64


@dataclass(frozen=True)
class Reach:
    """How far one position is read: by the positions behind it (they look ``back``) and before it (``ahead``).

    Attributes:
        back, ahead: farthest position that moves; -1: as far as the row goes; 0: none.
        is_sharp: whether all positions beyond stood *exactly* still, as behind the edge of a window.
        is_doubtful: whether a side moves so little that it may be rounding (experts share matrix products).
    """

    back: int
    ahead: int
    is_sharp: bool = True
    is_doubtful: bool = False

    def widest(self, other: Reach) -> Reach:
        """The farther of the two, each way."""
        sides = ((self.back, other.back), (self.ahead, other.ahead))
        back, ahead = (-1 if -1 in side else max(side) for side in sides)
        return Reach(back, ahead, self.is_sharp and other.is_sharp, self.is_doubtful or other.is_doubtful)


def reach_of(before_LD: torch.Tensor, after_LD: torch.Tensor, place: int) -> Reach:
    """The reach that a change at ``place`` shows.

    Args:
        before_LD: (L, D) output.
        after_LD: (L, D) output with another input at ``place``.
        place: the position whose input was changed.
    """
    moves_L = (before_LD - after_LD).abs().amax(-1).double() / before_LD.abs().amax().double().clamp(min=1e-12)
    threshold = _FINE if before_LD.dtype == torch.float64 else MOVED
    sides = (moves_L[place + 1 :], moves_L[:place].flip(0))
    far, is_sharp, is_doubtful = [], True, False
    for side_L in sides:
        moved = torch.nonzero(side_L > threshold).flatten()
        distance = int(moved[-1]) + 1 if len(moved) else 0
        is_sharp &= not bool((side_L[distance:] > 0).any())
        largest = float(side_L.max()) if len(side_L) else 0.0
        is_doubtful |= before_LD.dtype != torch.float64 and 0 < largest < DOUBTFUL
        far.append(-1 if distance == len(side_L) > 0 else distance)
    return Reach(far[0], far[1], is_sharp, is_doubtful)


def differ(one: torch.Tensor, other: torch.Tensor, by: float = 1e-4) -> bool:
    """Whether two outputs differ by more than rounding, relative to the largest number; NaN differs."""
    scale = float(one.abs().amax().clamp(min=1e-12))
    return not float((one - other).abs().amax()) <= by * scale


@dataclass
class Call:
    """How a module was called: the place of the tensor that it reads, and everything else."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: torch.Tensor

    def reach(self, place: int) -> Reach:
        """Move its input at ``place`` and see which positions of its output move."""
        where = _input_of(self.args, self.kwargs, self.output.shape)
        assert where is not None
        args, kwargs = list(self.args), dict(self.kwargs)
        holder: Any = args if isinstance(where, int) else kwargs
        moved = holder[where].clone()
        moved[:, place] = moved[:, place].flip(-1) + 1.0
        holder[where] = moved
        return reach_of(self.output[0], _tensor(self.module(*args, **kwargs))[0], place)

    def is_steady(self) -> bool:
        """Whether a second call gives the same: a module that keeps a state between calls cannot be asked alone."""
        return torch.equal(self.output, _tensor(self.module(*self.args, **self.kwargs)))


class Calls:
    """Notes how modules are called while it is open."""

    def __init__(self, modules: list[nn.Module]):
        self.calls: dict[int, Call] = {}
        self._modules = modules
        self._handles: list[Any] = []

    def __enter__(self) -> Calls:
        for place, module in enumerate(self._modules):
            self._handles.append(module.register_forward_hook(self._note(place), with_kwargs=True))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _note(self, place: int) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            try:
                found = _tensor(output)
            except TypeError:
                return
            if place not in self.calls and _input_of(args, kwargs, found.shape) is not None:
                self.calls[place] = Call(module, args, dict(kwargs), found)

        return note


def _tensor(output: Any) -> torch.Tensor:
    first = output if torch.is_tensor(output) else output[0]
    if not torch.is_tensor(first):
        raise TypeError("the first output is no tensor")
    return first


def _input_of(args: tuple[Any, ...], kwargs: dict[str, Any], shape: torch.Size) -> int | str | None:
    """Where the (B, L, D) input is that the output's shape is of."""
    items: list[tuple[Any, Any]] = [*enumerate(args), *kwargs.items()]
    for where, value in items:
        fits = torch.is_tensor(value) and value.is_floating_point() and value.dim() == 3 and len(shape) == 3
        if fits and value.shape[:2] == shape[:2]:
            return where
    return None
