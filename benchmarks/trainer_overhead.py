"""What the Trainer adds to a step: DiffusionTrainer against a bare PyTorch loop on the same model, data and noise.

Both sides train at the demo's size; a turn is a block of optimiser steps. Claim: at most 5 % more time a step.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import torch
from _alternate import milliseconds, ratio, write
from _bare_loop import bare_loop
from transformers import TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.data import load_tokenizer, prepare_data
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import MaskedDiffusionObjective
from hf_difflm.training.settings import load_settings


class _Turns(TrainerCallback):
    """Runs the bare loop's turns from inside the Trainer's loop, so that both alternate in one process."""

    def __init__(self, steps: int, pairs: int, bare):
        self.steps, self.pairs, self.bare = steps, pairs, bare
        self.seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
        self.mark = math.nan

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.steps:
            return
        now = time.perf_counter()
        if state.global_step > self.steps:  # the first turn warms up
            self.seconds["trainer"].append(now - self.mark)
        start = time.perf_counter()
        self.bare()
        if state.global_step > self.steps:
            self.seconds["bare"].append(time.perf_counter() - start)
        self.mark = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps in a turn; one of them logs")
    given = parser.parse_args()
    settings = load_settings("demo", {})
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = prepare_data(settings.data, tokenizer)
    rows = settings.training["global_batch_size"]

    set_seed(0)
    bare_model = build_denoiser(settings.model, tokenizer, settings.data.block_size, NoiseSchedule())
    bare = bare_loop(
        bare_model,
        MaskedDiffusionObjective(tokenizer.mask_token_id),
        tokenizer,
        data.train,
        rows,
        given.steps,
        learning_rate=settings.training["learning_rate"],
    )

    set_seed(0)
    model = build_denoiser(settings.model, tokenizer, settings.data.block_size, NoiseSchedule())
    turns = _Turns(given.steps, given.pairs, bare)
    with tempfile.TemporaryDirectory() as folder:
        training = settings.training | {
            "max_steps": given.steps * (given.pairs + 1),
            "logging_steps": given.steps,
            "eval_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": not torch.cuda.is_available(),
        }
        arguments = DiffusionTrainingArguments(output_dir=str(Path(folder)), **training)
        trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer, callbacks=[turns])
        trainer.train()
    overhead = ratio(turns.seconds, "trainer", "bare") - 1
    write(
        "trainer_overhead",
        {
            "claim": "overhead <= 5 %",
            "holds": overhead <= 0.05,
            "overhead": round(overhead, 4),
            "median_ms_per_turn": milliseconds(turns.seconds),
            "steps_per_turn": given.steps,
            "pairs": len(turns.seconds["bare"]),
            "parameters": model.num_parameters(),
            "tokens_per_step": rows * settings.data.block_size,
            "with": "run log, logging every turn, clipping, cosine schedule; the bare loop clips, steps and schedules too",
        },
    )


if __name__ == "__main__":
    main()
