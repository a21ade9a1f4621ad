"""What adaptive masking adds to an optimiser step at the demo's size: each setting against plain masked diffusion, in turn.

All sides have the same network, data and noise; a turn is a block of optimiser steps with clipping and AdamW, the networks
of the objective in a group of their own, as in the Trainer. Claim: the importance estimator adds less than 15 % to a step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _alternate import alternate, milliseconds, ratio, write
from _bare_loop import bare_loop
from _claims import Claim
from transformers import set_seed

from hf_difflm import data as texts
from hf_difflm.data import load_tokenizer
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import (
    AdaptiveSettings,
    MaskedDiffusionObjective,
    Objective,
    adaptive_objective,
    count_tokens,
)

SIDES = {
    "estimator alone": AdaptiveSettings("learned_only", "time_only"),
    "full, proportional": AdaptiveSettings("full", "proportional"),
    "full, proportional, curriculum": AdaptiveSettings("full", "proportional", curriculum="thirds"),
    "frequency_only": AdaptiveSettings("frequency_only", "proportional"),
}


def claims(result: dict) -> list[Claim]:
    """What the numbers of a run say of the claim."""
    one = "estimator alone"
    return [
        Claim(
            what="adaptive masking's importance estimator in an optimiser step, the demo's size",
            sides={name: result["median_ms_per_turn"][name] for name in (one, "mdlm")},
            unit=f"ms for {result['steps_per_turn']} steps",
            measure=f"{one} / mdlm",
            value=1 + result["added"][one],
            asked="< 1.15",
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=5, help="optimiser steps in a turn")
    given = parser.parse_args()
    settings = load_settings("demo", {})
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    rows = settings.training["global_batch_size"]
    counts_V = count_tokens(data.train, len(tokenizer), 1000, tokenizer.bos_token_id)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def side(adaptive: AdaptiveSettings | None) -> Callable[[], None]:
        set_seed(0)
        model = build_denoiser(settings.model, tokenizer, settings.data.block_size, NoiseSchedule()).to(device)
        objective: Objective = MaskedDiffusionObjective(tokenizer.mask_token_id)
        if adaptive is not None:
            objective = adaptive_objective(model.config, objective, adaptive, counts_V)
        objective.begin(1000)
        return bare_loop(model, objective, tokenizer, data.train, rows, given.steps, device=device)

    sides = {"mdlm": side(None), **{name: side(adaptive) for name, adaptive in SIDES.items()}}
    seconds = alternate(sides, given.pairs)
    added = {name: round(ratio(seconds, name, "mdlm") - 1, 4) for name in SIDES}
    result = {
        "added": added,
        "median_ms_per_turn": milliseconds(seconds),
        "steps_per_turn": given.steps,
        "pairs": given.pairs,
        "tokens_per_step": rows * settings.data.block_size,
    }
    write("atat", result, claims(result))


if __name__ == "__main__":
    main()
