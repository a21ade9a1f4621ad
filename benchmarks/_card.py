"""The device a benchmark is asked to run on, and what it can do: name, peak, rate of a plain matrix product."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from hf_difflm.flops.peaks import peak_flops


def asked_device(parser: argparse.ArgumentParser, given: argparse.Namespace) -> torch.device:
    """The device of ``--device``; an error of the parser where there is none."""
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --toy tries the benchmark out")
    return torch.device(given.device)


def measured(device: torch.device, toy: bool) -> dict[str, Any]:
    """What :func:`describe` says, and FLOP/s of a bfloat16 product with its sizes; a tiny one where ``toy``."""
    sizes = (64, 64, 64) if toy else (8192, 8192, 8192)
    rate = product_rate(device, sizes, repeats=2 if toy else 7)
    return {**describe(device), "product_flops_per_sec": rate, "product_sizes": sizes}


def describe(device: torch.device) -> dict[str, Any]:
    """Name, memory in bytes and dense bfloat16 peak in FLOP/s (None where the table does not know it)."""
    if device.type != "cuda":
        return {"card": "CPU", "memory": None, "peak_flops": None}
    properties = torch.cuda.get_device_properties(device)
    return {
        "card": properties.name,
        "memory": properties.total_memory,
        "peak_flops": peak_flops(properties.name, "bfloat16"),
    }


def product_rate(
    device: torch.device, sizes: tuple[int, int, int], repeats: int, dtype: torch.dtype = torch.bfloat16
) -> float:
    """FLOP/s of a product (M, K) x (K, N), the median over ``repeats`` timings of several products each."""
    m, k, n = sizes
    a_MK = torch.randn(m, k, device=device, dtype=dtype)
    b_KN = torch.randn(k, n, device=device, dtype=dtype)
    each = 10 if device.type == "cuda" else 1
    rates = []
    for turn in range(repeats + 1):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(each):
            a_MK @ b_KN
        synchronize(device)
        if turn:  # the first warms up
            rates.append(2.0 * m * k * n * each / (time.perf_counter() - start))
    return statistics.median(rates)


def synchronize(device: torch.device) -> None:
    """Wait for what the device still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes that were allocated at most since :func:`forget`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def forget(device: torch.device) -> None:
    """Give cached memory back and count its peak anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
