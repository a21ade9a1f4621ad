"""Values of training arguments that libraries look at only when training begins: here they are checked before that."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import SchedulerType, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

from ...errors import UserError, did_you_mean
from ..launch.liger import check_liger
from ..optimization.stable_decay import STABLE_DECAY, stable_decay_kwargs
from .complaints import complaints_about
from .typed_values import shown

# What the Trainer passes itself.
_GIVEN_BY_TRAINER = frozenset({"optimizer", "num_warmup_steps", "num_training_steps"})


def check_values(values: Mapping[str, Any]) -> None:
    """Check the learning-rate schedule, the precision, Liger and the options of torch.compile.

    Args:
        values: training arguments by name, typed.

    Raises:
        UserError: a name that does not exist, keyword arguments that the schedule does not take, or what needs a GPU or a
            package that is not there.
    """
    _check_schedule(values)
    for name in ("bf16", "fp16"):
        if values.get(name) and not values.get("use_cpu") and not torch.accelerator.is_available():
            remedy = "--use-cpu trains in bfloat16 on the CPU" if name == "bf16" else "use bf16 with --use-cpu"
            raise UserError(f"{name} is set, but there is no GPU; {remedy}, --no-{name} in float32")
    if values.get("use_liger_kernel"):
        check_liger(on_cpu=bool(values.get("use_cpu")) or not torch.accelerator.is_available())
    mode, backend = values.get("torch_compile_mode"), values.get("torch_compile_backend")
    if backend is not None:
        known = torch.compiler.list_backends(exclude_tags=())
        _one_of("torch_compile_backend", backend, known, torch.compiler.list_backends())
    if mode is not None and backend in (None, "inductor"):  # other backends have modes of their own
        from torch._inductor import list_mode_options

        _one_of("torch_compile_mode", mode, list_mode_options())


def _check_schedule(values: Mapping[str, Any]) -> None:
    name = values.get("lr_scheduler_type")
    if name is None:
        return
    _one_of("lr_scheduler_type", name, [kind.value for kind in SchedulerType])
    kind, given = SchedulerType(name), values.get("lr_scheduler_kwargs") or {}
    arguments = stable_decay_kwargs(given, 0, None) if kind == STABLE_DECAY else given
    function: Any = TYPE_TO_SCHEDULER_FUNCTION[kind]
    parameters = inspect.signature(function).parameters
    takes = [parameter for parameter in parameters if parameter not in _GIVEN_BY_TRAINER]
    unknown = [key for key in arguments if key not in takes]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        key = unknown[0]
        hint = did_you_mean(key, takes) or f"; it takes {', '.join(takes)}"
        raise UserError(
            f"lr_scheduler_kwargs has a key {key!r} that lr_scheduler_type {kind.value} does not take{hint}"
        )
    # The rest shows when it is built.
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    with complaints_about(
        f"lr_scheduler_type {kind.value} does not work with lr_scheduler_kwargs {dict(given)!r}",
        "give it what it needs as JSON, or choose another schedule",
    ):
        schedule = get_scheduler(
            kind, optimizer, num_warmup_steps=1, num_training_steps=4, scheduler_specific_kwargs=dict(arguments)
        )
        for factor in getattr(schedule, "lr_lambdas", ()):
            for step in range(4):
                factor(step)


def _one_of(name: str, value: Any, known: Any, told: Any = None) -> None:
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise UserError(f"{name} must be one of {', '.join(told or known)}, got {shown(value)}{hint}")
