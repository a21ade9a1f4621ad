"""Attention alone on a GPU, bf16, forward and backward: torch's sdpa against flex_attention, for three kinds of masks.

Everything (masked diffusion), causal (its twin), and documents that do not see each other within a row (packing). Sides take
turns in one process; FLOPs are those of the pairs that see each other, backward 2.5 times forward. flex_attention has no
backward on a CPU and is left out there. Claims nothing: it tells which kernel a setting should choose.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _alternate import alternate, milliseconds
from _card import asked_device, forget, measured, peak_memory
from _kept import Kept, add_arguments

SHAPE = (16, 12, 1024, 64)  # rows, heads, length, of 124M
TOY = (2, 2, 64, 16)
KINDS = ("everything", "causal", "documents")
DOCUMENTS = 8  # of a row, equally long


def sides(kind: str, shape: tuple[int, ...], device: torch.device) -> dict[str, Callable[[], torch.Tensor]]:
    """Forward and backward of each side; the mask is made before, as a training makes it once for all layers."""
    torch.manual_seed(0)
    length = shape[2]
    q, k, v = (torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    document_L = torch.arange(length, device=device) // -(-length // DOCUMENTS)
    mask_LL = document_L[:, None] == document_L if kind == "documents" else None
    upstream = torch.randn_like(q)

    def both(attend: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            q.grad = k.grad = v.grad = None
            out = attend()
            out.backward(upstream)
            return out

        return run

    made = {
        "sdpa": both(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask_LL, is_causal=kind == "causal"))
    }
    if device.type == "cuda":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        rules: dict[str, Any] = {
            "everything": None,
            "causal": lambda b, h, i, j: i >= j,
            "documents": lambda b, h, i, j: document_L[i] == document_L[j],
        }
        rule = rules[kind]
        block = None if rule is None else create_block_mask(rule, None, None, length, length, device=device.type)
        compiled: Any = torch.compile(flex_attention, dynamic=False)
        made["flex_attention"] = both(lambda: compiled(q, k, v, block_mask=block))
    return made


def pairs(kind: str, length: int) -> int:
    """How many (query, key) pairs of a row see each other."""
    if kind == "documents":
        longest = -(-length // DOCUMENTS)
        whole, rest = divmod(length, longest)
        return whole * longest**2 + rest**2
    return length * (length + 1) // 2 if kind == "causal" else length**2


def measure(kind: str, given: argparse.Namespace, device: torch.device, card: dict[str, Any]) -> dict[str, Any]:
    shape = TOY if given.toy else SHAPE
    rows, heads, length, width = shape
    made = sides(kind, shape, device)
    outputs = {name: side().detach().float() for name, side in made.items()}  # compiles
    memory = {}
    for name, side in made.items():
        forget(device)
        side()
        memory[name] = peak_memory(device)

    def often(side: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: [side() for _ in range(given.repeats)] and None

    seconds = alternate({name: often(side) for name, side in made.items()}, given.pairs, warmup=1)
    medians = {name: ms / given.repeats for name, ms in milliseconds(seconds).items()}
    flops = 3.5 * 4 * rows * heads * pairs(kind, length) * width
    expected = outputs["sdpa"]
    return {
        "shape": list(shape),
        "median_ms": {name: round(ms, 4) for name, ms in medians.items()},
        "flops_per_sec": {name: flops * 1e3 / ms for name, ms in medians.items()},
        "percent_of_product": {
            name: round(1e5 * flops / ms / card["product_flops_per_sec"], 2) for name, ms in medians.items()
        },
        "peak_memory": memory,
        "apart_from_sdpa": {
            name: float((out - expected).norm() / expected.norm()) for name, out in outputs.items() if name != "sdpa"
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=20, help="calls in each turn")
    given = parser.parse_args()
    device = asked_device(parser, given)
    card = measured(device, given.toy)
    flops = "3.5 x forward, over the pairs that see each other"
    kept = Kept("gpu_attention", given, {**card, "precision": "bf16", "flops": flops})
    for kind in KINDS:
        kept.measure({"mask": kind}, lambda kind=kind: measure(kind, given, device, card))
    return kept.finish()


if __name__ == "__main__":
    raise SystemExit(main())
