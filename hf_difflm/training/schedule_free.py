"""Optimisers that average the weights themselves: Schedule-Free (arXiv 2405.15682), which takes its gradients at y.

What they have found is x, and what the model holds while it is trained is y, between x and the fastest iterate z: x is what
is evaluated. It is told by the methods ``train`` and ``eval`` of such an optimiser, which no other has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..errors import UserError
from ..runs.journal.checkpoints import EMA_FILE

SCHEDULE_FREE = "schedule_free"
_ENGINES = ("single", "ddp")


class ScheduleFreeAverage:
    """The average that a Schedule-Free optimiser keeps, in the place of the weights that it trains.

    Args:
        model: what is trained.
        optimizer: trains it.
    """

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        self._named = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
        self._optimizer = optimizer

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model has x inside the block, and y again after it, bit for bit: that the optimiser goes back is not enough,
        since both ways are rounded."""
        weights = [weight for _, weight in self._named]
        own = [weight.clone() for weight in weights]
        self.stop()
        try:
            yield
        finally:
            self._optimizer.train()
            torch._foreach_copy_(weights, own)

    def stop(self) -> None:
        """Leave the model at x."""
        self._optimizer.eval()

    def save(self, folder: Path, write: bool = True) -> None:
        """Write x as ``ema.safetensors``, where ``eval``, ``generate`` and ``push`` look for what was evaluated."""
        if not write:
            return
        with self.swapped_in():
            tensors = {name: weight.cpu().contiguous() for name, weight in self._named}
            save_file(tensors, folder / EMA_FILE, metadata={"kind": SCHEDULE_FREE})


def schedule_free_average(model: nn.Module, optimizer: Any) -> ScheduleFreeAverage | None:
    """The average that ``optimizer`` keeps; None where it keeps none."""
    return ScheduleFreeAverage(model, _inner(optimizer)) if _averages(optimizer) else None


def check_optimizer(optimizer: Any, engine: str, ema_decay: float | None) -> None:
    """Raise UserError for a second average, and under an engine that does not pass ``eval`` on to the optimiser."""
    if not _averages(optimizer):
        return
    refuse_second_average(ema_decay, type(_inner(optimizer)).__name__)
    if engine not in _ENGINES:
        raise UserError(
            f"{type(_inner(optimizer)).__name__} evaluates an average of its own, which it has not where weights are sharded "
            f"({engine}); launch with accelerate_configs/ddp.yaml, or choose another optimiser"
        )


def refuse_second_average(ema_decay: float | None, name: str) -> None:
    """Raise UserError where a moving average is asked for beside an optimiser that keeps one."""
    if ema_decay is not None:
        raise UserError(f"ema_decay is {ema_decay:g}, but {name} evaluates an average of its own; leave ema_decay out")


def set_warmup(optimizer: Any, steps: int) -> None:
    """Tell an optimiser that warms up by itself for how many steps: of a share it would make a multiple of the rate."""
    for group in _inner(optimizer).param_groups:
        if "warmup_steps" in group:
            group["warmup_steps"] = steps


def learning_rate_of(optimizer: Any) -> float | None:
    """The rate of the last step, the optimiser's own warm-up in it; None where it has none of its own."""
    rate = _inner(optimizer).param_groups[0].get("scheduled_lr")
    return None if rate is None else float(rate)


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "optimizer", optimizer)  # accelerate's has both methods, whatever is inside


def _averages(optimizer: Any) -> bool:
    inner = _inner(optimizer)
    return callable(getattr(inner, "train", None)) and callable(getattr(inner, "eval", None))
