"""What an evaluation costs for the error it leaves: i.i.d. Bernoulli masks, exact counts, complementary pairs.

On a trained denoiser (that of ``noise_variance.py``) the same held-out blocks are scored under each kind of noise with as
many forwards, and with ``target_stderr`` until the standard error is 0.01 nats. Last, replicates that share a forward against
one forward each, on a set that is smaller than the evaluation batch. Asked for: a standard error of what evaluations draw
(stratified counts by importance) that is at most 0.4 times that of i.i.d. times with Bernoulli masks at equal forwards, and
smaller than that of uniform counts; and that sharing a forward is faster.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from _alternate import alternate, milliseconds, ratio, write
from _claims import Claim
from noise_variance import IMPORTANCE, PAIRS, PLAIN, STRATIFIED, BernoulliMasks, trained

from hf_difflm import data as texts
from hf_difflm.data import Collator, load_tokenizer
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches, spread
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.objectives import MaskedDiffusionObjective, Objective

TOY = {"dataset": "markov", "block_size": 33, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
ROWS, SMALL_SET = 32, 4
"""Sequences that are scored, and the evaluation batch; sequences of the set that is smaller."""
REPLICATES_TOGETHER = 8


def noises(mask_token_id: int) -> dict[str, Objective]:
    """The objectives that are compared; all estimate the same number (the first but for times below 0.001)."""
    p0 = MaskedDiffusionObjective(mask_token_id)
    return {
        PLAIN: BernoulliMasks(mask_token_id, 1),
        STRATIFIED: p0,
        IMPORTANCE: p0.for_evaluation(),
        PAIRS: p0.for_evaluation(pairs=True),
    }


def errors(model: Any, batches: EvaluationBatches, forwards: int, target: float) -> dict:
    """Each kind of noise at ``forwards`` forwards a sequence, and with a target."""
    rows, found = len(batches.dataset), {}
    for name, objective in noises(model.config.mask_token_id).items():
        reads = 2 if name == PAIRS else 1
        fixed = evaluate_likelihood(model, objective, batches, rows, replicates=forwards // reads)
        # Other draws than those above: the seed differs.
        stopped = evaluate_likelihood(
            model, objective, batches, rows, replicates=4, target_stderr=target, max_replicates=1000, seed=1
        )
        found[name] = {
            "nll": round(fixed.nll, 4),
            "forwards": fixed.forwards,
            "replicates": fixed.replicates,
            "nll_stderr": round(fixed.nll_stderr, 6),
            "relative_error_of_nll_stderr": round((2 * (fixed.replicates - 1)) ** -0.5, 3),
            "to_target": {
                "forwards": stopped.forwards,
                "replicates": stopped.replicates,
                "nll": round(stopped.nll, 4),
                "nll_stderr": round(stopped.nll_stderr, 6),
            },
        }
    return found


def together(model: Any, batches: EvaluationBatches, pairs: int) -> dict[str, list[float]]:
    """Seconds of evaluations whose replicates share a forward, and of those in which each has its own."""

    def side(at_once: int) -> None:
        evaluate_likelihood(
            model,
            MaskedDiffusionObjective(model.config.mask_token_id),
            batches,
            len(batches.dataset),
            replicates=REPLICATES_TOGETHER,
            replicates_at_once=at_once,
        )

    return alternate({"apart": lambda: side(1), "together": lambda: side(batches.replicates_at_once)}, pairs)


def claims(result: dict) -> list[Claim]:
    """What the numbers of a run say of the claims."""
    noise = result["noise"]
    sides = {name: numbers["nll_stderr"] for name, numbers in noise.items()}
    unit = f"nats/token, {noise[PLAIN]['forwards']} forwards"
    return [
        Claim(
            what="standard error of an evaluation against i.i.d. times with Bernoulli masks",
            sides=sides,
            unit=unit,
            measure=f"{IMPORTANCE} / {PLAIN}",
            value=sides[IMPORTANCE] / sides[PLAIN],
            asked="<= 0.4",
        ),
        Claim(
            what="standard error of an evaluation against uniform counts",
            sides=sides,
            unit=unit,
            measure=f"{IMPORTANCE} / {STRATIFIED}",
            value=sides[IMPORTANCE] / sides[STRATIFIED],
            asked="< 1",
        ),
        Claim(
            what=f"{REPLICATES_TOGETHER} replicates of a small set in shared forwards against one forward each",
            sides=result["median_ms"],
            unit="ms an evaluation",
            measure="apart / together",
            value=result["speedup_together"],
            asked="> 1",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9, help="timed pairs of evaluations")
    parser.add_argument("--target-stderr", type=float, default=0.01)
    parser.add_argument(
        "--forwards", type=int, default=400, help="forwards a sequence, the same for each kind of noise"
    )
    parser.add_argument(
        "--model", type=Path, help="folder of the denoiser: read if it is there, else trained and kept there"
    )
    parser.add_argument("--steps", type=int, default=400, help="training steps")
    parser.add_argument("--toy", action="store_true", help="small sizes that prove nothing, printed and not kept")
    given = parser.parse_args()
    settings = load_settings("demo", TOY if given.toy else {})
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    device = torch.device("cpu")
    model = trained(given, settings, tokenizer, data.train, device)
    collator = Collator(tokenizer)
    held_out = spread(data.eval, ROWS)
    found = errors(model, EvaluationBatches(held_out, collator, ROWS), given.forwards, given.target_stderr)
    small = EvaluationBatches(spread(data.eval, SMALL_SET), collator, ROWS)
    seconds = together(model, small, given.pairs)
    result = {
        "data": settings.data.dataset,
        "parameters": model.num_parameters(),
        "sequences": len(held_out),
        "length": settings.data.block_size,
        "noise": found,
        "target_stderr": given.target_stderr,
        "small_set": {"sequences": SMALL_SET, "replicates_at_once": small.replicates_at_once},
        "median_ms": milliseconds(seconds),
        "speedup_together": round(ratio(seconds, "apart", "together"), 3),
        "pairs": given.pairs,
    }
    if given.toy:
        print(json.dumps(result | {"claims": [claim.to_json() for claim in claims(result)]}, indent=2))
    else:
        write("evaluation_cost", result, claims(result))


if __name__ == "__main__":
    main()
