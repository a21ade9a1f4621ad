"""Block diffusion (blocks of 16): texts against masked diffusion and the causal twin with its cache, and a training step.

Texts: untrained weights, 8 steps a block, masked diffusion (``ddpm_cache``) in as many steps; ``linear`` is that with
``F.linear`` as head, ``autoregressive, fast head`` the twin with the head of few rows that block diffusion has, too. A step:
forward and backward pass, clipping, fused AdamW, at equal sequences of 256 tokens; its memory is of a process of its own.
Claims, of two texts at a vocabulary of 50,258: at least 4 times as fast as ``linear`` at 256 tokens and 8 times at 512; at
256, 3 times as fast as the twin, and 4 times in 4 steps a block; a token of 2,048 takes at most 1.4 times as long as one of
256. A step: at most 2.1 times that of masked diffusion at a vocabulary of 260 (batch 16) and 1.5 times at 50,258 (batch 8),
and at most 1.9 and 1.5 times the memory above that at start.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim
from _process_memory import peak, resident
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion import modeling_masked_diffusion
from hf_difflm.models.masked_diffusion.labelled_head import product_of_few_rows
from hf_difflm.objectives import BlockDiffusionObjective, MaskedDiffusionObjective, NoiseKey

SIZE, PER_BLOCK = 16, 8
HALF = "blocks of half the steps"
ALL = ("linear", "ddpm_cache", "autoregressive", "autoregressive, fast head", "blocks", HALF)
# Vocabulary, batch, most times a step of masked diffusion, most times its memory.
STEPS = [(260, 16, 2.1, 1.9), (50_258, 8, 1.5, 1.5)]
MEMORY_STEPS = 3
CLAIM_LONG = 1.4


def backbone_of(vocabulary: int, width: int, layers: int, length: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=-(-width * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=length,
        tie_word_embeddings=True,
    )


def denoiser(backbone: LlamaConfig, size: int | None) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(backbone_config=backbone, bos_token_id=0, diffusion_block_size=size)
    return MaskedDiffusionForMaskedLM(config)


def block_texts(
    vocabulary: int, rows: int, lengths: tuple[int, ...], width: int, layers: int, pairs: int
) -> dict[str, Any]:
    """Time texts of several lengths in turn; BOS and new tokens are whole blocks."""
    model = denoiser(backbone_of(vocabulary, width, layers, max(lengths)), SIZE).eval()
    prompt_BP, seeds = torch.zeros((rows, 1), dtype=torch.long), iter(range(10**9))

    def write_some(length: int) -> None:
        model.generate(
            prompt_BP,
            max_new_tokens=length - 1,
            max_denoising_steps=length // SIZE * PER_BLOCK,
            sampler="ddpm_cache",
            seed=next(seeds),
        )

    sides = {f"{length - 1} tokens": functools.partial(write_some, length) for length in lengths}
    sides[f"{lengths[0] - 1} tokens"]()  # the first call of anything is slow
    seconds = alternate(sides, pairs, warmup=0)
    first, *_, last = seconds
    return {
        "vocab_size": vocabulary,
        "texts": rows,
        "ms_a_token": {
            side: round(ms / (length - 1) / rows, 3)
            for length, (side, ms) in zip(lengths, milliseconds(seconds).items(), strict=True)
        },
        "last_over_first": round(ratio(seconds, last, first) * (lengths[0] - 1) / (lengths[-1] - 1), 3),
        "pairs": pairs,
    }


class FewRows(torch.nn.Module):
    """The head of the causal twin as samplers of masked diffusion compute it."""

    def __init__(self, weight_VD: torch.Tensor) -> None:
        super().__init__()
        self.weight_VD = weight_VD

    def forward(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        logits_NV = product_of_few_rows(hidden_BLD.flatten(0, 1), self.weight_VD)
        if logits_NV is None:
            return F.linear(hidden_BLD, self.weight_VD)
        return logits_NV.unflatten(0, hidden_BLD.shape[:2])


def texts(
    vocabulary: int, rows: int, new_tokens: int, width: int, layers: int, pairs: int, sides: tuple[str, ...] = ALL
) -> dict[str, Any]:
    """Time some sides in turn; BOS and new tokens are whole blocks."""
    backbone = backbone_of(vocabulary, width, layers, new_tokens)
    plain, blocks = denoiser(backbone, None).eval(), denoiser(backbone, SIZE).eval()
    causal = LlamaForCausalLM(backbone).eval()
    prompt_BP, new, steps = torch.zeros((rows, 1), dtype=torch.long), new_tokens - 1, new_tokens // SIZE * PER_BLOCK
    seeds = iter(range(10**9))
    forwards: dict[str, list[float]] = {}

    def write_by(side: str, model: MaskedDiffusionForMaskedLM, steps: int) -> None:
        output = model.generate(
            prompt_BP,
            max_new_tokens=new,
            max_denoising_steps=steps,
            sampler="ddpm_cache",
            seed=next(seeds),
            return_dict_in_generate=True,
        )
        forwards.setdefault(side, []).extend((new / output.tokens_per_forward).tolist())

    def linear() -> None:
        kept = modeling_masked_diffusion.product_of_few_rows
        modeling_masked_diffusion.product_of_few_rows = lambda hidden_ND, weight_VD: None
        try:
            write_by("linear", plain, steps)
        finally:
            modeling_masked_diffusion.product_of_few_rows = kept

    def twin() -> None:
        causal.generate(
            prompt_BP,
            attention_mask=torch.ones_like(prompt_BP),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=True,
            top_k=0,
            use_cache=True,
            pad_token_id=0,
        )

    def fast_twin() -> None:
        kept, causal.lm_head = causal.lm_head, FewRows(causal.lm_head.weight)
        try:
            twin()
        finally:
            causal.lm_head = kept

    known: dict[str, Callable[[], None]] = {
        "linear": linear,
        "ddpm_cache": lambda: write_by("ddpm_cache", plain, steps),
        "autoregressive": twin,
        "autoregressive, fast head": fast_twin,
        "blocks": lambda: write_by("blocks", blocks, steps),
        HALF: lambda: write_by(HALF, blocks, steps // 2),
    }
    seconds = alternate({side: known[side] for side in sides}, pairs, warmup=1 if new_tokens <= 256 else 0)
    return {
        "vocab_size": vocabulary,
        "texts": rows,
        "new_tokens": new,
        "steps": steps,
        "median_ms": milliseconds(seconds),
        "ms_a_token": {side: round(ms / new / rows, 3) for side, ms in milliseconds(seconds).items()},
        "over_blocks": {side: round(ratio(seconds, side, "blocks"), 3) for side in seconds if side != "blocks"},
        **({"over_half": round(ratio(seconds, "autoregressive", HALF), 3)} if HALF in seconds else {}),
        "mean_forwards_a_text": {side: round(sum(counts) / len(counts), 1) for side, counts in forwards.items()},
        "pairs": pairs,
    }


def one_step(name: str, vocabulary: int, rows: int, length: int, width: int, layers: int) -> Callable[[], None]:
    """An optimiser step of an objective."""
    mask_id = vocabulary - 1
    objective, size = MaskedDiffusionObjective(mask_id), None
    if name == "bd3lm":
        objective, size = BlockDiffusionObjective(mask_id, SIZE), SIZE
    model = denoiser(backbone_of(vocabulary, width, layers, length), size).train()
    ids_BL = torch.randint(1, mask_id, (rows, length), generator=torch.Generator().manual_seed(0))
    batch, numbers = {"input_ids": ids_BL, "labels": ids_BL}, iter(range(10**9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        key = NoiseKey(0, next(numbers), np.arange(rows), rows)
        objective(model, batch, key, rows * length).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def steps(vocabulary: int, rows: int, length: int, width: int, layers: int, pairs: int) -> dict[str, Any]:
    """Time a training step of either objective in turn, and see what memory each needs."""
    size = (vocabulary, rows, length, width, layers)
    seconds = alternate({name: one_step(name, *size) for name in ("mdlm", "bd3lm")}, pairs, warmup=1)
    memory = {name: memory_alone(name, size) for name in ("mdlm", "bd3lm")}
    return {
        "vocab_size": vocabulary,
        "batch": rows,
        "length": length,
        "median_ms": milliseconds(seconds),
        "bd3lm_over_mdlm": round(ratio(seconds, "bd3lm", "mdlm"), 3),
        "memory_above_start": memory,
        "memory_bd3lm_over_mdlm": round(memory["bd3lm"] / memory["mdlm"], 3),
        "pairs": pairs,
    }


def memory_alone(name: str, size: tuple[int, ...]) -> int:
    """Most bytes above those at the start of training, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name, *map(str, size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"training {name} failed: {done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


def claims_of(written: list[dict[str, Any]], lengths: dict[str, Any], trained: list[dict[str, Any]]) -> list[Claim]:
    """What the numbers say of the claims; the first texts are of 256 and 512 tokens."""
    short, middle = written[:2]

    def speed(run: dict[str, Any], side: str, words: str, asked: float, blocks: str = "blocks") -> Claim:
        per_block = PER_BLOCK if blocks == "blocks" else PER_BLOCK // 2
        return Claim(
            what=f"generate, {run['new_tokens']} tokens, blocks of {SIZE}, {per_block} steps a block, vocabulary "
            f"{run['vocab_size']:,}, {run['texts']} texts: block diffusion against {words}",
            sides={name: run["median_ms"][name] for name in (side, blocks)},
            unit="ms",
            measure=f"{side} / {blocks}",
            value=run["over_blocks"][side] if blocks == "blocks" else run["over_half"],
            asked=f">= {asked:g}",
        )

    return [
        speed(short, "linear", "masked diffusion with F.linear as head", 4),
        speed(middle, "linear", "masked diffusion with F.linear as head", 8),
        speed(short, "autoregressive", "the causal twin with its cache", 3),
        speed(short, "autoregressive", "the causal twin with its cache", 4, HALF),
        Claim(
            what=f"generate, blocks of {SIZE}, vocabulary {lengths['vocab_size']:,}, {lengths['texts']} texts: a token of a "
            "long text against one of a short text",
            sides=lengths["ms_a_token"],
            unit="ms a token",
            measure=" / ".join(reversed(lengths["ms_a_token"])),
            value=lengths["last_over_first"],
            asked=f"<= {CLAIM_LONG:g}",
        ),
        *(
            Claim(
                what=f"training step, blocks of {SIZE}, vocabulary {run['vocab_size']:,}: block diffusion against masked "
                "diffusion",
                sides=run["median_ms"],
                unit="ms a step",
                measure="bd3lm / mdlm",
                value=run["bd3lm_over_mdlm"],
                asked=f"<= {asked:g}",
            )
            for run, (_, _, asked, _) in zip(trained, STEPS, strict=True)
        ),
        *(
            Claim(
                what=f"memory of a training above that at its start, blocks of {SIZE}, vocabulary {run['vocab_size']:,}: "
                "block diffusion against masked diffusion",
                sides={name: round(value / 2**20) for name, value in run["memory_above_start"].items()},
                unit="MiB",
                measure="bd3lm / mdlm",
                value=run["memory_bd3lm_over_mdlm"],
                asked=f"<= {asked:g}",
            )
            for run, (_, _, _, asked) in zip(trained, STEPS, strict=True)
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pairs", type=int, default=3, help="turns of texts of 256 tokens and of steps; two of long texts"
    )
    parser.add_argument("--toy", action="store_true", help="small sizes that prove nothing, printed and not kept")
    parser.add_argument("--memory-of", nargs="+", metavar="NAME", help="take some training steps and tell the memory")
    given = parser.parse_args()
    if given.memory_of:
        step = one_step(given.memory_of[0], *map(int, given.memory_of[1:]))
        start = resident()
        for _ in range(MEMORY_STEPS):
            step()
        print(peak() - start)
        return
    if given.toy:
        written, trained = [texts(40, 2, 32, 32, 1, 1)], [steps(40, 2, 32, 32, 1, 1) for _ in STEPS]
        lengths = block_texts(40, 2, (32, 64), 32, 1, 1)
        print(json.dumps({"texts": written, "lengths": lengths, "steps": trained}, indent=2))
        return
    twins = ("autoregressive", "autoregressive, fast head", "blocks", HALF)
    written = [
        texts(50_258, 2, 256, 256, 4, given.pairs),
        texts(50_258, 2, 512, 256, 4, 2, ("linear", "autoregressive", "blocks")),
        *(texts(50_258, rows, 128, 256, 4, 2, twins) for rows in (1, 4, 8)),
    ]
    trained = [steps(vocabulary, rows, 256, 256, 4, given.pairs) for vocabulary, rows, _, _ in STEPS]
    lengths = block_texts(50_258, 2, (256, 2048), 256, 4, 2)
    result = {"texts": written, "lengths": lengths, "steps": trained}
    write("block_diffusion", result, claims_of(written, lengths, trained))


if __name__ == "__main__":
    main()
