"""``generate`` against a plain loop of the same distribution, and against the causal twin's ``generate`` with its KV cache.

The plain loop is ancestral sampling as the papers write it: each step forwards every row, runs the head and draws in
float64 at every position, and keeps what moved. Claims, at 256 tokens: >= 3.5 times its speed at 1024 steps and >= 1.4
times at 256 (258 tokens of vocabulary, one text), >= 8 times at 64 steps (50,258, two texts). Untrained weights: neither
side's work depends on them.
"""

from __future__ import annotations

import argparse
import json

import torch
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

WIDTH, LAYERS, HEADS, NEW_TOKENS = 256, 4, 4, 256
# Vocabulary with the mask, texts, steps, claim, share of the pairs asked for.
FULL = [(258, 1, 1024, 3.5, 1.0), (258, 1, 256, 1.4, 1.0), (50_258, 2, 64, 8.0, 0.4)]
TOY = [(40, 1, 32, None, 1.0), (300, 2, 8, None, 1.0)]


@torch.no_grad()
def plain_ancestral(
    model: MaskedDiffusionForMaskedLM, prompt_BP: torch.Tensor, new_tokens: int, steps: int
) -> torch.Tensor:
    """(B, P + new) texts: every step draws "stay masked" or a token at every position, from one categorical each."""
    mask_id = model.config.mask_token_id
    canvas_BL = torch.nn.functional.pad(prompt_BP, (0, new_tokens), value=mask_id)
    schedule = model.config.schedule()
    masked_S = schedule.mask_probability(torch.linspace(1, 0, steps + 1, dtype=torch.float64)).tolist()
    for step in range(1, steps + 1):
        before, after = masked_S[step - 1], masked_S[step]
        moved_BLV = model(canvas_BL).logits.double().softmax(-1) * (before - after)
        moved_BLV[..., mask_id] = after
        # The exponential race: argmax of p / E is a draw from p, what Gumbel noise does with a logarithm less.
        drawn_BL = (moved_BLV / torch.empty_like(moved_BLV).exponential_()).argmax(-1)
        canvas_BL = torch.where(canvas_BL == mask_id, drawn_BL, canvas_BL)
    return canvas_BL


def measure(
    vocab_size: int,
    rows: int,
    steps: int,
    claim: float | None,
    *,
    pairs: int,
    width: int,
    layers: int,
    new_tokens: int,
    device: str,
) -> dict:
    """Time the sides in turn."""
    torch.manual_seed(0)
    backbone = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=-(-width * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=2 * new_tokens,
        tie_word_embeddings=True,
    )
    # Tokenizer habits: the mask is the last token, BOS the first.
    denoiser = (
        MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, bos_token_id=0)).eval().to(device)
    )
    causal = LlamaForCausalLM(backbone).eval().to(device)
    prompt_BP = torch.zeros((rows, 1), dtype=torch.long, device=device)
    seeds = iter(range(10**9))
    forwards: dict[str, list[float]] = {"ddpm_cache": [], "first_hitting": []}

    def ours(sampler: str) -> None:
        output = denoiser.generate(
            prompt_BP,
            max_new_tokens=new_tokens,
            max_denoising_steps=max(steps, new_tokens) if sampler == "first_hitting" else steps,
            sampler=sampler,
            seed=next(seeds),
            return_dict_in_generate=True,
        )
        forwards[sampler] += (new_tokens / output.tokens_per_forward).tolist()

    def autoregressive() -> None:
        causal.generate(
            prompt_BP,
            attention_mask=torch.ones_like(prompt_BP),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=True,
            top_k=0,
            use_cache=True,
            pad_token_id=0,
        )

    sides = {
        "plain": lambda: plain_ancestral(denoiser, prompt_BP, new_tokens, steps),
        "ddpm_cache": lambda: ours("ddpm_cache"),
        "first_hitting": lambda: ours("first_hitting"),
        "autoregressive": autoregressive,
    }
    seconds = alternate(sides, pairs, warmup=1)
    speedup = ratio(seconds, "plain", "ddpm_cache")
    return {
        "vocab_size": vocab_size,
        "texts": rows,
        "new_tokens": new_tokens,
        "steps": steps,
        "asked_speedup_over_plain": claim,
        "speedup_over_plain": round(speedup, 3),
        "speedup_over_autoregressive": round(ratio(seconds, "autoregressive", "ddpm_cache"), 3),
        "first_hitting_over_autoregressive": round(ratio(seconds, "autoregressive", "first_hitting"), 3),
        "median_ms": milliseconds(seconds),
        "tokens_per_second": {
            side: round(rows * new_tokens * 1e3 / ms, 1) for side, ms in milliseconds(seconds).items() if ms
        },
        "mean_forwards_a_text": {side: round(sum(counts) / len(counts), 1) for side, counts in forwards.items()},
        "pairs": pairs,
    }


def claims(result: dict) -> list[Claim]:
    """What the numbers of the runs say of the claims."""
    return [
        Claim(
            what=f"generate, {run['new_tokens']} tokens in {run['steps']} steps, vocabulary {run['vocab_size']:,}, "
            f"{run['texts']} text{'s' if run['texts'] > 1 else ''}: against the plain loop of the same distribution",
            sides=run["median_ms"],
            unit="ms",
            measure="plain / ddpm_cache",
            value=run["speedup_over_plain"],
            asked=f">= {run['asked_speedup_over_plain']:g}",
        )
        for run in result["runs"]
        if run["asked_speedup_over_plain"] is not None
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--toy", action="store_true", help="small sizes that prove nothing, printed and not kept")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    cases, width, layers, new_tokens = (TOY, 32, 1, 16) if given.toy else (FULL, WIDTH, LAYERS, NEW_TOKENS)
    runs = [
        measure(
            vocabulary,
            rows,
            steps,
            claim,
            pairs=max(1, round(given.pairs * share)),
            width=width,
            layers=layers,
            new_tokens=new_tokens,
            device=given.device,
        )
        for vocabulary, rows, steps, claim, share in cases
    ]
    result = {"runs": runs}
    if given.toy:
        print(json.dumps(result, indent=2))
    else:
        write("sampling", result, claims(result))


if __name__ == "__main__":
    main()
