"""Sampling on a GPU, in bf16, with static shapes and compiled: ``generate`` against the plain loop and the causal twin.

Sides, in turn in one process: ancestral sampling as the papers write it (``plain``: head and draw at every position of
every row, see ``sampling.py``), the same distribution by ``ddpm_cache`` and by ``first_hitting``, and the twin's ``generate``
with its KV cache, which is static where the sides are compiled. Random weights: no side's work depends on them. Beside times
and tokens/s: forwards, the memory that each side alone needs, model FLOP/s of the forwards, against the card's peak (MFU) and
against a plain matrix product. Claim, compiled: faster than the plain loop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from _alternate import alternate, milliseconds, ratio
from _card import asked_device, forget, measured, peak_memory
from _claims import Claim
from _kept import Kept, add_arguments
from gpu_train import MODES, VOCABULARY
from sampling import plain_ancestral
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.flops.network import mfu

SIZES = {"124M": (768, 12, 12), "350M": (1024, 24, 16)}  # width, layers, heads
TOY = {"toy": (32, 2, 2)}
OURS = ("ddpm_cache", "first_hitting")


def networks(size: tuple[int, int, int], vocabulary: int, length: int, attention: str, device: torch.device) -> tuple:
    """The denoiser and its causal twin, in bfloat16."""
    width, layers, heads = size
    backbone = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=-(-width * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(backbone_config=backbone, bos_token_id=0)
    config._attn_implementation = attention
    denoiser = MaskedDiffusionForMaskedLM(config).eval().to(device, torch.bfloat16)
    causal = LlamaForCausalLM._from_config(backbone, attn_implementation=attention)
    return denoiser, causal.eval().to(device, torch.bfloat16)


def measure(size: tuple[int, int, int], given: argparse.Namespace, device: torch.device, card: dict) -> dict:
    """Time the sides in turn at one size; the model is the same for the plain loop and for ours."""
    vocabulary, length = 64 if given.toy else VOCABULARY, given.new_tokens + 1
    denoiser, causal = networks(size, vocabulary, length, given.attention, device)
    compiled = not given.no_compile
    if compiled:
        mode = None if given.compile_mode == "default" else given.compile_mode
        denoiser.compile(dynamic=False, mode=mode, backend=given.backend)
    prompt_BP = torch.zeros((given.texts, 1), dtype=torch.long, device=device)

    def ours(sampler: str, **more: Any) -> Any:
        return denoiser.generate(
            prompt_BP,
            max_new_tokens=given.new_tokens,
            max_denoising_steps=max(given.steps, given.new_tokens) if sampler == "first_hitting" else given.steps,
            sampler=sampler,
            seed=0,  # the same forwards each time
            static_shapes=compiled,
            return_dict_in_generate=True,
            **more,
        )

    def autoregressive() -> None:
        causal.generate(
            prompt_BP,
            attention_mask=torch.ones_like(prompt_BP),
            max_new_tokens=given.new_tokens,
            min_new_tokens=given.new_tokens,
            do_sample=True,
            top_k=0,
            use_cache=True,
            cache_implementation="static" if compiled else None,  # transformers compiles its forward on a GPU
            pad_token_id=0,
        )

    sides: dict[str, Callable[[], None]] = {
        "plain": lambda: plain_ancestral(denoiser, prompt_BP, given.new_tokens, given.steps),
        **{sampler: lambda sampler=sampler: ours(sampler) for sampler in OURS},  # type: ignore[misc]
        "autoregressive": autoregressive,
    }
    forwards, computed = {"plain": float(given.steps)}, {"plain": float(given.steps)}
    for sampler in OURS:
        output = ours(sampler, output_history=True)
        forwards[sampler] = float((given.new_tokens / output.tokens_per_forward).mean())
        # With static shapes every row goes through each forward, of which there is one for each canvas of the history.
        computed[sampler] = float(len(output.history)) if compiled else forwards[sampler]
    for side in sides.values():  # compiles what is left; its memory is not that of sampling
        side()
    memory = {}
    for label, side in sides.items():
        forget(device)
        side()
        memory[label] = peak_memory(device)
    seconds = alternate(sides, given.pairs, warmup=0)
    medians = milliseconds(seconds)
    # A forward reads every position of every row: 2 FLOPs a weight of the layers, and the square of attention.
    weights = sum(p.numel() for p in denoiser.backbone.layers.parameters())
    width, layers, _ = size
    flops = 2 * given.texts * length * (weights + 2 * layers * width * length)
    rates = {label: flops * count * 1e3 / medians[label] for label, count in computed.items()}
    return {
        "compile": compiled,
        "vocabulary": vocabulary,
        "texts": given.texts,
        "new_tokens": given.new_tokens,
        "steps": given.steps,
        "plain_over_ddpm_cache": round(ratio(seconds, "plain", "ddpm_cache"), 3),
        "autoregressive_over_ddpm_cache": round(ratio(seconds, "autoregressive", "ddpm_cache"), 3),
        "autoregressive_over_first_hitting": round(ratio(seconds, "autoregressive", "first_hitting"), 3),
        "median_ms": medians,
        "tokens_per_sec": {label: round(given.texts * given.new_tokens * 1e3 / ms, 1) for label, ms in medians.items()},
        "mean_forwards_a_text": {label: round(count, 1) for label, count in forwards.items()},
        "mean_forwards_computed": {label: round(count, 1) for label, count in computed.items()},
        "model_flops_per_sec_of_layers": rates,
        "mfu_percent_of_layers": {label: mfu(rate, 1.0, 1, card["peak_flops"]) for label, rate in rates.items()},
        "percent_of_product": {label: 100 * rate / card["product_flops_per_sec"] for label, rate in rates.items()},
        "peak_memory": memory,
        "pairs": given.pairs,
    }


def claims(result: dict) -> list[Claim]:
    """What the rows say of the claim."""
    return [
        Claim(
            what=f"generate at {row['size']}, {row['texts']} texts of {row['new_tokens']} tokens in {row['steps']} steps, "
            f"bf16{', compiled' if row['compile'] else ''}, vocabulary {row['vocabulary']:,}",
            sides=row["median_ms"],
            unit="ms",
            measure="plain / ddpm_cache",
            value=row["plain_over_ddpm_cache"],
            asked="> 1",
        )
        for row in result["rows"]
        if "error" not in row
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["124M"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--texts", type=int, help="generated together (default: 8)")
    parser.add_argument("--new-tokens", type=int, help="of each text (default: 1023)")
    parser.add_argument("--steps", type=int, help="of the reverse process (default: 256)")
    parser.add_argument("--no-compile", action="store_true", help="neither torch.compile nor static shapes")
    parser.add_argument("--compile-mode", choices=MODES, default="default", help="reduce-overhead: CUDA graphs")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--attention", default="sdpa", help="attn_implementation")
    given = parser.parse_args()
    given.texts = given.texts or (2 if given.toy else 8)
    given.new_tokens = given.new_tokens or (15 if given.toy else 1023)
    given.steps = given.steps or (8 if given.toy else 256)
    device = asked_device(parser, given)
    card = measured(device, given.toy)
    head = {
        **card,
        "precision": "bf16 weights; probabilities of the plain loop in float64",
        "flops": "of the layers, every position of every row of each forward; the LM head is not counted",
        "attention": given.attention,
        "compile_mode": given.compile_mode,
    }
    kept = Kept("gpu_sample", given, head, claims)
    for name, size in (TOY if given.toy else {name: SIZES[name] for name in given.sizes}).items():
        kept.measure({"size": name}, lambda size=size: measure(size, given, device, card))
        torch._dynamo.reset()
        forget(device)
    print(
        f"{card['card']}: a product of {card['product_sizes']} at {card['product_flops_per_sec'] / 1e12:.3g} TFLOP/s",
        file=sys.stderr,
    )
    return kept.finish()


if __name__ == "__main__":
    raise SystemExit(main())
