"""Norms of many tensors in one pass on their device, whole even where each process holds a shard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Replicate
from transformers import TrainingArguments

Sharding = tuple[Any, ...]
"""The process groups over which a tensor is cut into shards; empty where each process holds the whole of it."""


def sharding_of(tensor: torch.Tensor) -> Sharding:
    """Return how a tensor is cut over processes (FSDP2, tensor parallelism)."""
    if not isinstance(tensor, DTensor):
        return ()
    mesh = tensor.device_mesh
    return tuple(mesh.get_group(place) for place, kind in enumerate(tensor.placements) if kind.is_shard())


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor, dense; the values of a sparse one (added up) are enough for norms."""
    if isinstance(tensor, DTensor):
        if any(kind.is_partial() for kind in tensor.placements):
            tensor = tensor.redistribute(placements=[Replicate() if k.is_partial() else k for k in tensor.placements])
        tensor = tensor.to_local()
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def tensor_norms(
    tensors: Sequence[torch.Tensor | None], shardings: Sequence[Sharding], device: torch.device
) -> torch.Tensor:
    """Return the (N,) Euclidean norms of tensors; 0 for None. Waits for no device.

    Sums are float32 whatever the type of the tensors, over processes float64. Every process of a sharding must call
    this with the same number of tensors.

    Args:
        tensors: N of any shapes, types and devices: local parts (:func:`local_part`).
        shardings: how each of the N is cut.
        device: where the norms shall be.
    """
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for place, tensor in enumerate(tensors):
        if tensor is not None:
            kinds[tensor.device, tensor.dtype].append(place)
    found: list[torch.Tensor] = []
    for (_, dtype), places in kinds.items():
        parts = [tensor for place in places if (tensor := tensors[place]) is not None]
        norms = torch.stack(torch._foreach_norm(parts, 2, dtype=None if dtype == torch.float64 else torch.float32))
        found.append(norms.to(device, torch.float32, non_blocking=True))
    if len(found) == 1 and len(found[0]) == len(tensors):
        norms_N = found[0]
    else:
        norms_N = torch.zeros(len(tensors), device=device)
        for places, norms in zip(kinds.values(), found, strict=True):
            norms_N[_index(places, device)] = norms
    by_sharding: dict[Sharding, list[int]] = defaultdict(list)
    for place, sharding in enumerate(shardings):
        if sharding:
            by_sharding[sharding].append(place)
    for sharding, places in by_sharding.items():
        here = _index(places, device)
        squares = norms_N[here].double().square()
        for group in sharding:
            dist.all_reduce(squares, group=group)
        norms_N[here] = squares.sqrt().float()
    return norms_N


def _index(places: Sequence[int], device: torch.device) -> torch.Tensor:
    """Places as an index on the device, copied there without waiting for it."""
    return torch.tensor(places).to(device, non_blocking=True)


def engine_with_its_own_weights(model: nn.Module) -> str | None:
    """Return the name of the engine that keeps the weights, and their gradients, in a form of its own; else None."""
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return "FSDP1"
    return "DeepSpeed ZeRO-3" if any(hasattr(parameter, "ds_id") for parameter in model.parameters()) else None


def is_deepspeed(args: TrainingArguments) -> bool:
    """Whether DeepSpeed trains, whose optimiser steps within the backward pass and leaves no gradients behind."""
    state = args.distributed_state
    return state is not None and state.distributed_type == DistributedType.DEEPSPEED
