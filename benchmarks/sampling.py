"""``generate`` against a plain loop of the same distribution, and against the causal twin's ``generate`` with its KV cache.

The plain loop is ancestral sampling as the papers write it: each step forwards every row, runs the head and draws in
float64 at every position, and keeps what moved. Claims, at 256 tokens: >= 3.5 times its speed at 1024 steps and >= 1.4
times at 256 (258 tokens of vocabulary, one text), >= 8 times at 64 steps (50,258, two texts). Untrained weights: neither
side's work depends on them.

``--confidence``: samplers that look at every mask, against a loop that makes all logits of a step, a softmax of them for
the rule and another in float64 for the draw; the same texts. Claims, at 128 tokens in 32 steps and a vocabulary of 50,258
(two texts): at least twice its speed. ``head`` are the products of that head alone, which no rule can do without.

``--converted``: ``--sampler llada`` against a plain loop of LLaDA's published law (``_llada_loop.py``), greedy. Claim,
at 128 tokens in 128 steps, blocks of 32 and a vocabulary of 50,258 (two texts): at least twice its speed, the same tokens.
"""

from __future__ import annotations

import argparse
import json

import torch
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim
from _converted import converted_claims, measure_converted
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.generation_random import TOKEN, RowDraws, row_seeds

WIDTH, LAYERS, HEADS, NEW_TOKENS = 256, 4, 4, 256
# Vocabulary with the mask, texts, steps, claim, share of the pairs asked for.
CONFIDENCE = [("low_confidence", True), ("low_confidence", False), ("topk_margin", True), ("entropy", False)]
CONFIDENCE_STEPS, CONFIDENCE_CLAIM = 32, 2.0
CONVERTED_STEPS, CONVERTED_BLOCK = 128, 32
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


@torch.no_grad()
def plain_confidence(
    model: MaskedDiffusionForMaskedLM,
    prompt_BP: torch.Tensor,
    new_tokens: int,
    steps: int,
    rule: str,
    greedy: bool,
    seed: int,
) -> torch.Tensor:
    """(B, P + new) texts of ``generate`` with the sampler ``rule``, by whole tensors of positions times vocabulary."""
    mask_id, draws = model.config.mask_token_id, RowDraws(row_seeds(seed, len(prompt_BP), 1))
    canvas_BL = torch.nn.functional.pad(prompt_BP, (0, new_tokens), value=mask_id)

    def draw(logits_MV: torch.Tensor, row_M: torch.Tensor, column_M: torch.Tensor) -> torch.Tensor:
        if greedy:
            return logits_MV.argmax(-1)
        uniform_M = torch.from_numpy(draws.uniform(TOKEN, step, row_M.numpy(), column_M.numpy()))
        cumulative_MV = logits_MV.double().softmax(-1).cumsum(-1)
        return torch.searchsorted(cumulative_MV, uniform_M[:, None] * cumulative_MV[:, -1:], right=True).squeeze(-1)

    for step in range(1, steps + 1):
        row_N, column_N = torch.nonzero(canvas_BL == mask_id, as_tuple=True)
        logits_NV = model(canvas_BL, positions=row_N * canvas_BL.shape[1] + column_N).logits
        if rule == "low_confidence":
            tokens_N = draw(logits_NV, row_N, column_N)
            doubt_N = -logits_NV.log_softmax(-1).gather(-1, tokens_N[:, None]).squeeze(-1)
        elif rule == "topk_margin":
            best_N2 = logits_NV.softmax(-1).topk(2, dim=-1).values
            doubt_N = best_N2[:, 1] - best_N2[:, 0]
        else:
            doubt_N = torch.special.entr(logits_NV.softmax(-1)).sum(-1)
        left = new_tokens - -(-new_tokens * step // steps)  # masks of a row after this step
        for row in range(len(prompt_BP)):
            here = torch.nonzero(row_N == row).squeeze(-1)
            here = here[doubt_N[here].argsort(stable=True)[: len(here) - left]]
            found = tokens_N[here] if rule == "low_confidence" else draw(logits_NV[here], row_N[here], column_N[here])
            canvas_BL[row, column_N[here]] = found
    return canvas_BL


def measure_confidence(rule: str, greedy: bool, *, pairs: int, size: dict[str, int]) -> dict:
    """Time the loop against ``generate``, and the products of the head that both need."""
    rows, new_tokens, steps = size["rows"], size["new_tokens"], size["steps"]
    denoiser = sure_model(size)
    prompt_BP, texts = torch.zeros((rows, 1), dtype=torch.long), {"plain": [], rule: []}
    seeds = {side: iter(range(10**9)) for side in texts}

    def ours() -> torch.Tensor:
        return denoiser.generate(
            prompt_BP,
            max_new_tokens=new_tokens,
            max_denoising_steps=steps,
            sampler=rule,
            do_sample=not greedy,
            seed=next(seeds[rule]),
        )

    def plain() -> torch.Tensor:
        return plain_confidence(denoiser, prompt_BP, new_tokens, steps, rule, greedy, next(seeds["plain"]))

    @torch.no_grad()
    def head() -> None:
        weight_VD = denoiser.lm_head.weight
        for step in range(steps):
            hidden_ND = torch.zeros(rows * (new_tokens - -(-new_tokens * step // steps)), weight_VD.shape[1])
            for some_ND in hidden_ND.split(256):
                for part_CD in weight_VD.split(1024):  # what its cache holds, so that nothing but the product is timed
                    torch.mm(some_ND, part_CD.T)

    seconds = alternate(
        {"plain": lambda: texts["plain"].append(plain()), rule: lambda: texts[rule].append(ours()), "head": head},
        pairs,
        warmup=1,
    )
    same = torch.stack(texts["plain"]) == torch.stack(texts[rule])
    return {
        "rule": rule,
        "greedy": greedy,
        **size,
        "speedup_over_plain": round(ratio(seconds, "plain", rule), 3),
        "same_tokens": round(float(same.double().mean()), 6),
        "median_ms": milliseconds(seconds),
        "tokens_per_second": {
            side: round(rows * new_tokens * 1e3 / ms, 1)
            for side, ms in milliseconds(seconds).items()
            if side != "head" and ms
        },
        "pairs": pairs,
    }


def sure_model(size: dict[str, int]) -> MaskedDiffusionForMaskedLM:
    """A denoiser with large weights: untrained, all positions are nearly alike, and rounding would say which is surest."""
    denoiser, _ = models(size["vocab_size"], size["width"], size["layers"], size["new_tokens"], "cpu")
    with torch.no_grad():
        for weight in denoiser.parameters():
            if weight.dim() > 1:
                weight *= 4
    return denoiser


def models(
    vocab_size: int, width: int, layers: int, new_tokens: int, device: str
) -> tuple[MaskedDiffusionForMaskedLM, LlamaForCausalLM]:
    """A denoiser and its causal twin."""
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
    config = MaskedDiffusionConfig(backbone_config=backbone, bos_token_id=0)
    return MaskedDiffusionForMaskedLM(config).eval().to(device), LlamaForCausalLM(backbone).eval().to(device)


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
    denoiser, causal = models(vocab_size, width, layers, new_tokens, device)
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


def confidence_claims(runs: list[dict]) -> list[Claim]:
    """What the numbers say of samplers that look at every mask."""
    return [
        Claim(
            what=f"generate, {run['rule']}, {'greedy' if run['greedy'] else 'temperature 1'}, {run['new_tokens']} tokens in "
            f"{run['steps']} steps, vocabulary {run['vocab_size']:,}, {run['rows']} texts: against all logits at once",
            sides=run["median_ms"],
            unit="ms",
            measure=f"plain / {run['rule']}",
            value=run["speedup_over_plain"],
            asked=f">= {CONFIDENCE_CLAIM:g}",
        )
        for run in runs
    ]


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
    parser.add_argument(
        "--confidence", action="store_true", help="the samplers that look at every mask, and nothing else"
    )
    parser.add_argument(
        "--converted", action="store_true", help="the sampler that LLaDA was published with, and nothing else"
    )
    given = parser.parse_args()
    size = {
        "vocab_size": 50_258,
        "rows": 2,
        "new_tokens": 128,
        "steps": CONVERTED_STEPS if given.converted else CONFIDENCE_STEPS,
        "width": WIDTH,
        "layers": LAYERS,
    }
    if given.toy:
        size = {"vocab_size": 40, "rows": 2, "new_tokens": 16, "steps": 8, "width": 32, "layers": 1}
    if given.converted:
        run = measure_converted(
            sure_model(size), pairs=given.pairs, size=size, block_length=4 if given.toy else CONVERTED_BLOCK
        )
        if given.toy:
            print(json.dumps({"runs": [run]}, indent=2))
        else:
            write("sampling", {"runs": [run]}, converted_claims(run), "converted")
        return
    if given.confidence:
        found = [measure_confidence(*case, pairs=given.pairs, size=size) for case in CONFIDENCE]
        if given.toy:
            print(json.dumps({"runs": found}, indent=2))
        else:
            write("sampling", {"runs": found}, confidence_claims(found), "confidence")
        return
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
