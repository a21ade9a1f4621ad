"""``sampling.py --converted``: the sampler that LLaDA was published with against a plain loop of its law."""

from __future__ import annotations

from typing import Any

import torch
from _alternate import alternate, milliseconds, ratio
from _claims import Claim
from _llada_loop import plain_llada

from hf_difflm import MaskedDiffusionForMaskedLM

CLAIM = 2.0


def measure_converted(
    denoiser: MaskedDiffusionForMaskedLM, *, pairs: int, size: dict[str, int], block_length: int
) -> dict[str, Any]:
    """Time the loop of LLaDA's law against ``generate`` with its sampler; every pair has a prompt of its own."""
    rows, new_tokens, steps = size["rows"], size["new_tokens"], size["steps"]
    prompts = {side: torch.Generator().manual_seed(1) for side in ("plain", "llada")}
    texts: dict[str, list[torch.Tensor]] = {side: [] for side in prompts}

    def prompt_of(side: str) -> torch.Tensor:
        return torch.randint(0, size["vocab_size"] - 1, (rows, 8), generator=prompts[side])

    def ours() -> torch.Tensor:
        return denoiser.generate(
            prompt_of("llada"),
            max_new_tokens=new_tokens,
            max_denoising_steps=steps,
            block_length=block_length,
            sampler="llada",
            temperature=0.0,
            eos_token_id=None,
        )

    def plain() -> torch.Tensor:
        return plain_llada(
            lambda ids_BL: denoiser.lm_head(denoiser.backbone(input_ids=ids_BL).last_hidden_state),
            prompt_of("plain"),
            mask_id=denoiser.config.mask_token_id,
            new_tokens=new_tokens,
            steps=steps,
            block_length=block_length,
        )

    sides = {"plain": lambda: texts["plain"].append(plain()), "llada": lambda: texts["llada"].append(ours())}
    seconds = alternate(sides, pairs, warmup=1)
    return {
        **size,
        "block_length": block_length,
        "speedup_over_plain": round(ratio(seconds, "plain", "llada"), 3),
        "same_tokens": round(float((torch.stack(texts["plain"]) == torch.stack(texts["llada"])).double().mean()), 6),
        "median_ms": milliseconds(seconds),
        "tokens_per_second": {
            side: round(rows * new_tokens * 1e3 / ms, 1) for side, ms in milliseconds(seconds).items() if ms
        },
        "pairs": pairs,
    }


def converted_claims(run: dict[str, Any]) -> list[Claim]:
    """What the numbers say of the sampler that LLaDA was published with."""
    size = (
        f"{run['new_tokens']} tokens in {run['steps']} steps, blocks of {run['block_length']}, vocabulary "
        f"{run['vocab_size']:,}, {run['rows']} texts"
    )
    return [
        Claim(
            what=f"generate --sampler llada, greedy, {size}: tokens a second against the plain loop of the published law",
            sides=run["tokens_per_second"],
            unit="tokens/s",
            measure="llada / plain",
            value=run["speedup_over_plain"],
            asked=f">= {CLAIM:g}",
        ),
        Claim(
            what=f"generate --sampler llada, greedy, {size}: the tokens of the plain loop of the published law",
            sides={"the same": run["same_tokens"]},
            unit="share of all tokens",
            measure="the same",
            value=run["same_tokens"],
            asked=">= 1",
        ),
    ]
