"""The peak FLOP/s of the device a Trainer trains on."""

from __future__ import annotations

import torch
from transformers import TrainingArguments

from ...flops.peaks import peak_flops
from .engines import compute_dtype


def device_peak(args: TrainingArguments, model: torch.nn.Module | None) -> float | None:
    """Return the dense peak of one device in FLOP/s: ``args.peak_flops``, or else what the table says; None where unknown.

    Args:
        args: their ``peak_flops``, where they have it, wins over the table.
        model: whose weights tell the type it computes in, without autocast.
    """
    given = getattr(args, "peak_flops", None)
    if given is not None:
        return float(given)
    if args.device.type != "cuda":
        return None
    dtype = compute_dtype(args, model)
    if dtype == "float32" and torch.get_float32_matmul_precision() != "highest":
        dtype = "tf32"
    return peak_flops(torch.cuda.get_device_name(args.device), dtype)
