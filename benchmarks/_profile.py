"""Views of a training step: the wall-clock of its parts, its operators (torch.profiler), its Python functions (cProfile)."""

from __future__ import annotations

import cProfile
import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from _card import synchronize
from _operators import kind_of
from transformers import TrainerCallback

from hf_difflm import DiffusionTrainer

PARTS = ("data", "forward", "backward", "clipping", "optimizer")
BLOCKS = ("warm-up", "parts", "operators", "python")


class Parts:
    """Seconds in the parts of a step, the device waited for at each end; without it nothing is clocked."""

    def __init__(self, trainer: DiffusionTrainer) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.on = False
        self._device = trainer.args.device
        for part, name in (("data", "get_batch_samples"), ("forward", "compute_loss"), ("clipping", "_clip_grad_norm")):
            setattr(trainer, name, self._clocked(part, getattr(trainer, name)))
        trainer.accelerator.backward = self._clocked("backward", trainer.accelerator.backward)
        make = trainer.create_optimizer

        def create_optimizer(*arguments: Any) -> torch.optim.Optimizer:
            optimizer = make(*arguments)
            optimizer.step = self._clocked("optimizer", optimizer.step)
            return optimizer

        trainer.create_optimizer = create_optimizer

    def _clocked(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def clocked(*arguments: Any, **named: Any) -> Any:
            if not self.on:
                return function(*arguments, **named)
            synchronize(self._device)
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                synchronize(self._device)
                self.seconds[part] += time.perf_counter() - start

        return clocked


class Blocks(TrainerCallback):
    """Begins and ends each view; first of the callbacks, so that a step's logging counts to the block that it ends."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.parts: Parts | None = None
        self.seconds: dict[str, float] = {}
        self.flops: dict[int, float] = {}
        self.python = cProfile.Profile()
        device = torch.profiler.ProfilerActivity.CUDA if torch.cuda.is_available() else None
        activities = [torch.profiler.ProfilerActivity.CPU, *([device] if device else [])]
        self.operators = torch.profiler.profile(activities=activities, record_shapes=True)
        self._mark = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        block, into = divmod(state.global_step, self.steps)
        if into:
            return
        synchronize(args.device)
        now = time.perf_counter()
        if block:
            self._end(BLOCKS[block - 1], now)
        self._begin(BLOCKS[block])
        self._mark = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        synchronize(args.device)
        self._end(BLOCKS[-1], time.perf_counter())

    def on_training_iterations(self, args, state, rows):
        self.flops |= {row["iter"]: row.get("flops") or 0.0 for row in rows}

    def _begin(self, block: str) -> None:
        assert self.parts is not None
        self.parts.on = block == "parts"
        if block == "operators":
            self.operators.start()
        if block == "python":
            self.python.enable()

    def _end(self, block: str, now: float) -> None:
        self.seconds[block] = now - self._mark
        if block == "operators":
            self.operators.stop()
        if block == "python":
            self.python.disable()


def operators(profiler: torch.profiler.profile, vocabulary: int, steps: int) -> list[dict[str, Any]]:
    """The operators by their own time alone, on a GPU that of their kernels; calls and milliseconds are those of a step."""
    rows = []
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.device_type != torch.autograd.DeviceType.CPU:  # a kernel, which its operator tells of
            continue
        own = event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total
        rows.append(
            {
                "operator": event.key,
                "shapes": str([list(shape) for shape in event.input_shapes if shape]),
                "kind": kind_of(event.key, event.input_shapes, vocabulary),
                "calls": round(event.count / steps, 1),
                "ms": own / 1e3 / steps,
            }
        )
    return sorted(rows, key=lambda row: -row["ms"])
