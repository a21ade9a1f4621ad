"""Block diffusion (blocks of 16): texts against masked diffusion and the causal twin with its cache, and a training step.

Texts: untrained weights, two rows, 8 steps a block, masked diffusion (``ddpm_cache``) in as many steps; ``linear`` is that
with ``F.linear`` as head. A step: forward and backward pass, clipping, fused AdamW, at equal sequences of 256 tokens.
Claims: 256 new tokens at a vocabulary of 50,258 at least 4 times as fast as ``linear`` and 3 times as fast as the twin; a
step at most 2.1 times that of masked diffusion at a vocabulary of 260 (batch 16), 1.5 times at 50,258 (batch 8).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion import modeling_masked_diffusion
from hf_difflm.objectives import BlockDiffusionObjective, MaskedDiffusionObjective, NoiseKey, Objective

SIZE, PER_BLOCK = 16, 8
CLAIM_LINEAR, CLAIM_TWIN, CLAIM_STEP_SMALL, CLAIM_STEP_LARGE = 4.0, 3.0, 2.1, 1.5


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


def texts(vocabulary: int, rows: int, new_tokens: int, width: int, layers: int, pairs: int) -> dict[str, Any]:
    """Time all sides in turn; BOS and new tokens are whole blocks."""
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

    seconds = alternate(
        {
            "linear": linear,
            "ddpm_cache": lambda: write_by("ddpm_cache", plain, steps),
            "autoregressive": twin,
            "blocks": lambda: write_by("blocks", blocks, steps),
            "blocks of half the steps": lambda: write_by("blocks of half the steps", blocks, steps // 2),
        },
        pairs,
        warmup=1,
    )
    return {
        "vocab_size": vocabulary,
        "texts": rows,
        "new_tokens": new,
        "steps": steps,
        "median_ms": milliseconds(seconds),
        "over_blocks": {side: round(ratio(seconds, side, "blocks"), 3) for side in seconds if side != "blocks"},
        "mean_forwards_a_text": {side: round(sum(counts) / len(counts), 1) for side, counts in forwards.items()},
        "pairs": pairs,
    }


def steps(vocabulary: int, rows: int, length: int, width: int, layers: int, pairs: int) -> dict[str, Any]:
    """Time a training step of either objective in turn."""
    backbone = backbone_of(vocabulary, width, layers, length)
    ids_BL = torch.randint(1, vocabulary - 1, (rows, length))
    batch = {"input_ids": ids_BL, "labels": ids_BL}

    def side(objective: Objective, size: int | None) -> Callable[[], None]:
        model, numbers = denoiser(backbone, size).train(), iter(range(10**9))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            key = NoiseKey(0, next(numbers), np.arange(rows), rows)
            objective(model, batch, key, rows * length).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    mask_id = vocabulary - 1
    seconds = alternate(
        {
            "mdlm": side(MaskedDiffusionObjective(mask_id), None),
            "bd3lm": side(BlockDiffusionObjective(mask_id, SIZE), SIZE),
        },
        pairs,
        warmup=1,
    )
    return {
        "vocab_size": vocabulary,
        "batch": rows,
        "length": length,
        "median_ms": milliseconds(seconds),
        "bd3lm_over_mdlm": round(ratio(seconds, "bd3lm", "mdlm"), 3),
        "pairs": pairs,
    }


def claims_of(written: dict[str, Any], trained: list[dict[str, Any]]) -> list[Claim]:
    """What the numbers say of the claims."""
    size = f"vocabulary {written['vocab_size']:,}"
    said = f"{written['new_tokens']} tokens, blocks of {SIZE}, {PER_BLOCK} steps a block, {size}"
    return [
        *(
            Claim(
                what=f"generate, {said}: block diffusion against {words}",
                sides=written["median_ms"],
                unit="ms",
                measure=f"{side} / blocks",
                value=written["over_blocks"][side],
                asked=f">= {asked:g}",
            )
            for side, words, asked in (
                ("linear", "masked diffusion with F.linear as head", CLAIM_LINEAR),
                ("autoregressive", "the causal twin with its cache", CLAIM_TWIN),
            )
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
            for run, asked in zip(trained, (CLAIM_STEP_SMALL, CLAIM_STEP_LARGE), strict=True)
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="small sizes that prove nothing, printed and not kept")
    given = parser.parse_args()
    if given.toy:
        written, trained = texts(40, 2, 32, 32, 1, 1), [steps(40, 2, 32, 32, 1, 1) for _ in range(2)]
        print(json.dumps({"texts": written, "steps": trained}, indent=2))
        return
    written = texts(50_258, 2, 256, 256, 4, given.pairs)
    trained = [steps(*size, 256, 256, 4, given.pairs) for size in ((260, 16), (50_258, 8))]
    write("block_diffusion", {"texts": written, "steps": trained}, claims_of(written, trained))


if __name__ == "__main__":
    main()
