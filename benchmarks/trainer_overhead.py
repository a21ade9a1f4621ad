"""What the Trainer adds to a step: DiffusionTrainer against a bare PyTorch loop on the same model, data and noise.

A turn is a block of optimiser steps; both sides take turns in one process. The Trainer logs all that a run from the command
line does, at its usual rate or oftener: the run log and its text form, gradient norms and throughput each turn of 10 steps,
alerts, statistics of weights and activations and a dashboard, drawn by a process beside it, each third turn. Text samples,
which are no logging, are left out. What a turn logs is paid for in the Trainer's turn that follows.
Claim: the Trainer's step rate is at least 0.97 of the bare loop's, at the demo's size and with a vocabulary of 50,258.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time

import torch
from _alternate import milliseconds, ratio, write
from _bare_loop import bare_loop
from _card import synchronize
from _claims import Claim
from _sizes import SIZES, flags_of
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm import data as texts
from hf_difflm.callbacks import RunLogCallback
from hf_difflm.data import load_tokenizer
from hf_difflm.experiments.monitoring import add_monitoring
from hf_difflm.experiments.recipe_settings import Settings, load_settings
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import MaskedDiffusionObjective

CLAIM_RATE = 0.97
STEPS = {"demo": 10, "large_vocabulary": 10, "toy": 4}  # in a turn: a run logs each 10 by default
PAIRS = {
    "demo": 20,
    "large_vocabulary": 10,
    "toy": 4,
}  # short turns, and many where a step is short: the median needs them
RARE = 3  # turns between pictures, statistics and rebuilt JSON files


class _Turns(TrainerCallback):
    """Runs the bare loop's turns from inside the Trainer's loop, so that both alternate in one process.

    First of the callbacks: what is logged after a turn falls into the Trainer's next.
    """

    def __init__(self, steps: int, bare, device: torch.device) -> None:
        self.steps, self.bare, self.device = steps, bare, device
        self.seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
        self._mark = math.nan

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.steps:
            return
        start = self._now()
        self.bare()
        end = self._now()
        if state.global_step > self.steps:  # the first turn warms up
            self.seconds["trainer"].append(start - self._mark)
            self.seconds["bare"].append(end - start)
        self._mark = self._now()

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def watched(settings: Settings, steps: int, turns: int) -> Settings:
    """Return the settings with everything logged in so many turns of so many steps."""
    settings.training |= {
        "seed": 42,
        "max_steps": steps * turns,
        "logging_steps": steps,
        "log_save_interval": RARE * steps,
        "eval_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }
    settings.monitoring.viz_interval = settings.monitoring.statistics_interval = RARE * steps
    settings.monitoring.generate_interval = 0
    return settings


def measure(size: str, pairs: int, steps: int) -> dict:
    """Time both sides at one size."""
    settings = watched(load_settings("demo", flags_of(size)), steps, pairs + 1)
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    rows = settings.training["global_batch_size"]

    def make_model():
        set_seed(0)
        return build_denoiser(settings.model, tokenizer, settings.data.block_size, NoiseSchedule())

    objective = MaskedDiffusionObjective(tokenizer.mask_token_id)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learning_rate = settings.training["learning_rate"]
    bare_model = make_model().to(device)
    bare = bare_loop(
        bare_model,
        objective,
        tokenizer,
        data.train,
        rows,
        steps,
        learning_rate=learning_rate,
        device=device,
        seed=settings.training["seed"],
    )
    turns = _Turns(steps, bare, device)
    model = make_model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = DiffusionTrainingArguments(output_dir=folder, **settings.training)
        trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer, callbacks=[turns])
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(RunLogCallback(run_name=size, log_save_interval=arguments.log_save_interval))
        add_monitoring(trainer, settings.monitoring, data)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    medians = milliseconds(turns.seconds)
    return {
        "size": size,
        "step_rate_over_bare": round(ratio(turns.seconds, "bare", "trainer"), 4),
        "step_rate_over_bare_in_all": round(sum(turns.seconds["bare"]) / sum(turns.seconds["trainer"]), 4),
        "median_ms_per_step": {side: round(value / steps, 3) for side, value in medians.items()},
        "seconds_per_turn": {side: [round(value, 4) for value in values] for side, values in turns.seconds.items()},
        "steps_per_turn": steps,
        "pairs": len(turns.seconds["bare"]),
        "parameters": model.num_parameters(),
        "vocabulary": model.config.vocab_size,
        "tokens_per_step": rows * settings.data.block_size,
        "loss_of_turns": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, help=f"turns of each side that count (default: {PAIRS})")
    parser.add_argument("--steps", type=int, help=f"optimiser steps in a turn; the last one logs (default: {STEPS})")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "large_vocabulary"])
    given = parser.parse_args()
    runs = [measure(size, given.pairs or PAIRS[size], given.steps or STEPS[size]) for size in given.sizes]
    claims = [
        Claim(
            what="the Trainer, everything logged, keeps the step rate of a bare loop "
            f"(vocabulary {run['vocabulary']:,}, {run['parameters']:,} parameters)",
            sides=run["median_ms_per_step"],
            unit="ms a step",
            measure="step rate, trainer / bare",
            value=run["step_rate_over_bare"],
            asked=f">= {CLAIM_RATE}",
        )
        for run in runs
    ]
    result = {
        "logged": "run log, text log, gradient norms, throughput and alerts each turn; statistics, dashboard and JSON files "
        f"each {RARE} turns; no text samples",
        "runs": runs,
    }
    if "toy" in given.sizes:  # tried out, not measured
        print(json.dumps({"claims": [claim.to_json() for claim in claims], **result}, indent=2))
    else:
        write("trainer_overhead", result, claims)


if __name__ == "__main__":
    main()
