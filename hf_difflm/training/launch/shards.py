"""Weights of which each process may hold a share: its own part, the whole, and back."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def local_part(parameter: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight, sharing its memory and without gradient: a shard (FSDP2, ZeRO-3) or all of it."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().detach()
    return getattr(parameter, "ds_tensor", parameter).detach()


def reshard(model: nn.Module) -> None:
    """Let go of the whole weights that FSDP2 keeps after a forward pass without a backward; nothing to do elsewhere.

    Until then ``model.parameters()`` are the whole weights, not the shards, and a change of the shards would not be
    seen by the next forward pass.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(part: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Put together a tensor that is cut as ``parameter`` is; every process of its sharding must call this.

    Args:
        part: what this process holds of it.
        parameter: the weight that it belongs to.
    """
    if not isinstance(parameter, DTensor):
        return part
    shape, stride = parameter.shape, parameter.stride()
    cut = DTensor.from_local(
        part, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=stride
    )
    return cut.full_tensor()


def shard_like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return this process's share of a whole tensor, cut as ``parameter`` is; no process talks to another."""
    if not isinstance(parameter, DTensor):
        return tensor
    on_device = tensor.to(parameter.device)
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()


def weights_are_finite(model: nn.Module) -> bool:
    """Whether all that this process holds of the weights is finite; waits for the device."""
    reshard(model)
    parts = [part for parameter in model.parameters() if (part := local_part(parameter)).numel()]
    if not parts:
        return True
    return bool(torch.stack(torch._foreach_norm(parts)).isfinite().all())
