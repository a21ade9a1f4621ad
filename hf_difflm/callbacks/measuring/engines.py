"""What spreads a training over processes, what of the model each process holds a share of, and in what type it computes."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.state import AcceleratorState
from transformers import TrainingArguments

_SHARED_BY_ZERO = ("optimizer", "gradients", "weights")


def engine_of(args: TrainingArguments) -> str:
    """Return ``single``, ``ddp``, ``fsdp1``, ``fsdp2``, or ``zero0`` to ``zero3``; known once there is a Trainer."""
    # FSDP and DeepSpeed chosen by `accelerate launch` are in the accelerate state, not in the arguments.
    kind = str(getattr(getattr(args.distributed_state, "distributed_type", None), "value", "")).lower()
    if kind == "deepspeed":
        plugin = _state().get("deepspeed_plugins") or args.deepspeed_plugin
        return f"zero{getattr(plugin, 'zero_stage', 0)}"
    if kind == "fsdp":
        return f"fsdp{getattr(_state().get('fsdp_plugin'), 'fsdp_version', 2)}"
    return "ddp" if args.world_size > 1 else "single"


def sharding_of(args: TrainingArguments) -> list[str]:
    """Return what each process holds a share of only, out of ``optimizer``, ``gradients`` and ``weights``."""
    engine = engine_of(args)
    if engine.startswith("zero"):
        return list(_SHARED_BY_ZERO[: int(engine.removeprefix("zero"))])
    if engine.startswith("fsdp"):
        return list(_SHARED_BY_ZERO)
    return []


def fsdp_state_dict_type() -> str | None:
    """Return in which form FSDP saves weights, e.g. ``FULL_STATE_DICT``; None without FSDP."""
    kind = getattr(_state().get("fsdp_plugin"), "state_dict_type", None)
    return None if kind is None else str(getattr(kind, "name", kind))


def compute_dtype(args: TrainingArguments, model: torch.nn.Module | None) -> str | None:
    """Return what the model computes in: the type of autocast, else that of its weights; ``bfloat16`` and so on."""
    # The launcher's configuration may ask for a precision, too.
    mixed = "bf16" if args.bf16 else "fp16" if args.fp16 else getattr(args, "mixed_precision", "no")
    if mixed in ("bf16", "fp16"):
        return "bfloat16" if mixed == "bf16" else "float16"
    first = None if model is None else next(model.parameters(), None)
    return None if first is None else str(first.dtype).removeprefix("torch.")


def _state() -> dict[str, Any]:
    return AcceleratorState._shared_state
