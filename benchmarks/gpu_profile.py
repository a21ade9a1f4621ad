"""Where the time of a training step on a GPU goes, eager and compiled, at the sizes of ``gpu_train.py``.

Of each side: the wall-clock of the parts of a step; how much of a step the device computes (what is missing to 100 % it waits
for the host); the time of its kernels by kind; and the largest ones. Of the eager side also the operators by kind, as
``profile_step.py`` tells them of a CPU. Made to be read, not to claim anything.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from typing import Any

import torch
from _card import asked_device, forget, measured
from _kept import Kept, add_arguments
from _operators import KERNELS, KINDS, kind_of_kernel
from _profile import BLOCKS, PARTS, Blocks, Parts, operators
from gpu_train import MODES, SIDES, SIZES, TOY, VOCABULARY, make_trainer

from hf_difflm.flops.network import mfu


def measure(
    size: tuple[int, int, int, int],
    compiled: bool,
    given: argparse.Namespace,
    device: torch.device,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Train a block of steps for each view."""
    steps = given.steps
    blocks = Blocks(steps)
    try:
        with tempfile.TemporaryDirectory() as folder:
            trainer = make_trainer(
                size, given.side, compiled, given, device, folder, steps * len(BLOCKS), [blocks], logging_steps=steps
            )
            blocks.parts = Parts(trainer)
            forget(device)
            trainer.train()
    finally:
        torch._dynamo.reset()
        gc.collect()
        forget(device)
    whole = 1e3 * blocks.seconds["parts"] / steps
    parts = {part: 1e3 * blocks.parts.seconds[part] / steps for part in PARTS}
    parts["the rest, logging included"] = whole - sum(parts.values())
    flops = sum(blocks.flops[step] for step in range(steps + 1, 2 * steps + 1))
    kernels = sorted(
        (
            {"kernel": event.key[:120], "calls": event.count / steps, "ms": event.self_device_time_total / 1e3 / steps}
            for event in blocks.operators.key_averages()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ),
        key=lambda row: -row["ms"],
    )
    busy = sum(row["ms"] for row in kernels)
    profiled = 1e3 * blocks.seconds["operators"] / steps
    rows = operators(blocks.operators, 512 if given.toy else VOCABULARY, steps)
    return {
        "micro_batch": size[-1],
        "length": given.length,
        "steps": steps,
        "ms_per_step": round(whole, 3),
        "mfu_percent": mfu(flops, blocks.seconds["parts"], 1, card["peak_flops"]),
        "parts_ms_per_step": {name: round(value, 3) for name, value in parts.items()},
        "device_busy_percent": round(100 * busy / profiled, 1) if kernels else None,
        "kernels_ms_per_step": _by_kind(KERNELS, ((kind_of_kernel(row["kernel"]), row["ms"]) for row in kernels)),
        "largest_kernels": [row | {"ms": round(row["ms"], 3)} for row in kernels[:12]],
        "operators_ms_per_step": None if compiled else _by_kind(KINDS, ((row["kind"], row["ms"]) for row in rows)),
    }


def _by_kind(kinds: tuple[str, ...], found: Any) -> dict[str, float]:
    total = dict.fromkeys(kinds, 0.0)
    for kind, ms in found:
        total[kind] += ms
    return {kind: round(ms, 3) for kind, ms in total.items() if ms}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--size", choices=SIZES, default="124M")
    parser.add_argument("--side", choices=SIDES, default="labelled")
    parser.add_argument("--steps", type=int, help="optimiser steps in each block; the last one logs (default: 5)")
    parser.add_argument("--compile-mode", choices=MODES, default="default")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--attention", default="sdpa", help="attn_implementation")
    given = parser.parse_args()
    given.steps = given.steps or (3 if given.toy else 5)  # the step that logs has a graph of its own
    given.length, given.liger = 32 if given.toy else 1024, False
    device = asked_device(parser, given)
    card = measured(device, given.toy)
    name = "toy" if given.toy else given.size
    size = (TOY if given.toy else SIZES)[name]
    kept = Kept("gpu_profile", given, {**card, "precision": "bf16 autocast, float32 weights"})
    for compiled in (True, False):
        kept.measure(
            {"size": name, "side": given.side, "compile": compiled},
            lambda compiled=compiled: measure(size, compiled, given, device, card),
        )
    return kept.finish()


if __name__ == "__main__":
    raise SystemExit(main())
