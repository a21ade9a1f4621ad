"""What exact likelihoods cost: ours against the plain loop, which forwards every row with the whole head at every step.

Blocks of the demo's evaluation text are scored left to right and by confidence, one token a step, by a network of the demo's
size with the weights it begins with (the cost does not depend on them). Asked for: 64 blocks of 128 tokens within 60 seconds
on two cores.

    python benchmarks/exact_likelihood.py
    python benchmarks/exact_likelihood.py --size large_vocabulary --blocks 2
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from _alternate import alternate, ratio, write
from _claims import Claim
from _sizes import SIZES, VOCABULARY, flags_of
from transformers import set_seed

from hf_difflm import MaskedDiffusionForMaskedLM
from hf_difflm import data as texts
from hf_difflm.data import Collator, load_tokenizer
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches
from hf_difflm.evaluation.likelihood.exact import ExactScorer
from hf_difflm.evaluation.likelihood.exact_options import ExactOptions, read_orders
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models.build import build_denoiser

ORDERS = ("left_to_right", "confidence")
ROWS = 32


@torch.no_grad()
def plain_loop(model: Any, batches: EvaluationBatches, order: str) -> float:
    """Nats of all scored tokens: the definition, written down."""
    mask_id, total = model.config.mask_token_id, 0.0
    for batch in batches:
        ids_BL, masked_BL = batch["input_ids"].clone(), batch["labels"] != -100
        ids_BL[masked_BL] = mask_id
        rows_B = torch.arange(len(ids_BL))
        while masked_BL.any():
            log_p_BLV = model(ids_BL).logits.log_softmax(-1)
            if order == "left_to_right":
                place_B = masked_BL.float().argmax(-1)
            else:
                place_B = log_p_BLV.amax(-1).masked_fill(~masked_BL, float("-inf")).argmax(-1)
            true_B = batch["input_ids"][rows_B, place_B]
            left_B = masked_BL.any(-1)
            total -= float(log_p_BLV[rows_B, place_B, true_B][left_B].double().sum())
            ids_BL[rows_B, place_B] = true_B
            masked_BL[rows_B, place_B] = False
    return total


def network(size: str) -> tuple[MaskedDiffusionForMaskedLM, Any, Any]:
    """A denoiser of a size with the weights it begins with, its tokenizer, evaluation rows."""
    settings = load_settings(
        "demo", {name: value for name, value in flags_of(size).items() if name != "backbone_config"}
    )
    tokenizer = load_tokenizer(settings.data.tokenizer)
    rows = texts.prepare_data(settings.data, tokenizer, need_train=False).eval
    set_seed(0)
    model = build_denoiser(settings.model, tokenizer, settings.data.block_size)
    if size == "large_vocabulary":
        config = model.config
        config.backbone_config.vocab_size = config.vocab_size = VOCABULARY
        config.mask_token_id = VOCABULARY - 1
        model = MaskedDiffusionForMaskedLM(config)
    return model.eval(), tokenizer, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[size for size in SIZES if size != "toy"], default="demo")
    parser.add_argument("--toy", action="store_true", help="a network that takes milliseconds, to try this out")
    parser.add_argument("--blocks", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=0, help="rounds before those that count")
    given = parser.parse_args()
    if given.toy:
        given.size, given.blocks = "toy", min(given.blocks, 4)
    model, tokenizer, rows = network(given.size)
    batches = EvaluationBatches(rows.select(range(given.blocks)), Collator(tokenizer), ROWS)
    result: dict[str, Any] = {"size": given.size, "blocks": given.blocks, "orders": {}}
    claims = []
    for name in ORDERS:
        (order,) = read_orders(ExactOptions(exact_order=name))
        found: dict[str, Any] = {}

        def ours(order: Any = order, found: dict[str, Any] = found) -> None:
            found["sums"] = ExactScorer(model, order, "blocks")(batches)

        def plain(name: str = name, found: dict[str, Any] = found) -> None:
            found["plain"] = plain_loop(model, batches, name)

        seconds = alternate({"ours": ours, "plain loop": plain}, given.pairs, given.warmup)
        sums = found["sums"]
        nll = float(sums.unit_nll_KU.sum())
        # Of two places that are equally sure but for rounding, either may come first.
        if abs(nll - found["plain"]) > 1e-3 * nll:
            raise SystemExit(f"{name}: ours {nll}, the plain loop {found['plain']}")
        times = {side: round(min(values), 2) for side, values in seconds.items()}
        result["orders"][name] = {"seconds": times, "forwards": sums.forwards, "nats": round(nll, 3)}
        claims.append(
            Claim(
                what=f"{given.blocks} blocks, {name}, {sums.forwards} forwards",
                sides=times,
                unit="s",
                measure="plain loop / ours",
                value=ratio(seconds, "plain loop", "ours"),
                asked="> 1",
            )
        )
        if given.size == "demo":
            claims.append(
                Claim(
                    what=f"{given.blocks} blocks, {name}",
                    sides=times,
                    unit="s",
                    measure="seconds, ours",
                    value=times["ours"],
                    asked="<= 60",
                )
            )
    if given.toy:
        print(json.dumps(result))
        return
    write("exact_likelihood", result, claims, "" if given.size == "demo" else given.size)


if __name__ == "__main__":
    main()
