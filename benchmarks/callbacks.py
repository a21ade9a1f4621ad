"""What watching a training costs: every callback at its default frequency against none, at the demo's size.

One training, whose turns of 100 steps have the callbacks switched on and off alternately. Claims: at most 5 % more
wall-clock, and below 0.1 ms a step in the hooks without the samples. In 2,000 steps the statistics, every 500, report at
1,000 and 2,000 within turns that are on: twice in 1,000 steps, which is their share. The samples, every 1,000, have twice
theirs. The processor time of the training thread stands beside the wall-clock of the hooks, which includes what other
programs on the machine took; the claim is about the wall-clock.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from _alternate import milliseconds, ratio, write
from _claims import Claim
from _hooks import ONCE, clock_hooks
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm import data as texts
from hf_difflm.callbacks import DashboardCallback, RunLogCallback
from hf_difflm.data import load_tokenizer
from hf_difflm.experiments.monitoring import add_monitoring
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule

SAMPLES = "GenerationSamplesCallback"


class _Turns(TrainerCallback):
    """Switches at the begin of a turn; first of the callbacks, so that a turn pays for all that its steps cause."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: dict[str, list[float]] = {"off": [], "on": []}
        self._mark = math.nan
        self._turn = 0

    def is_on(self) -> bool:
        return self._turn % 2 == 1

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step % self.steps == 0:
            self._close()
            self._turn = state.global_step // self.steps

    def on_train_end(self, args, state, control, **kwargs):
        self._close()

    def _close(self) -> None:
        now = time.perf_counter()
        if not math.isnan(self._mark):
            self.seconds["on" if self.is_on() else "off"].append(now - self._mark)
        self._mark = now


def claims(result: dict) -> list[Claim]:
    """What the numbers of a run say of the claims."""
    steps = result["steps_per_turn"]
    hooks = result["hooks_ms_per_step_without_samples"]
    return [
        Claim(
            what="every callback at its default frequency against none, the demo's size",
            sides=result["median_ms_per_turn"],
            unit=f"ms for {steps} steps",
            measure="on / off, the larger of median of pairs and of totals",
            value=max(result["wall_clock_ratio_median_of_pairs"], result["wall_clock_ratio_of_totals"]),
            asked="<= 1.05",
        ),
        Claim(
            what="the hooks of all callbacks but the samples, on the training thread",
            sides={"hooks": hooks, "step": result["median_step_ms_off"]},
            unit="ms a step",
            measure="hooks, ms a step",
            value=hooks,
            asked="< 0.1",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps in a turn")
    parser.add_argument("--report-to", default="none", help="trackers that get the numbers, too")
    given = parser.parse_args()
    settings = load_settings("demo", {})
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    set_seed(0)
    model = build_denoiser(settings.model, tokenizer, settings.data.block_size, NoiseSchedule())
    turns = _Turns(given.steps)
    by_callback: dict[str, defaultdict[str, float]] = {}
    cpu_by_callback: dict[str, defaultdict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        training = settings.training | {
            "max_steps": 2 * given.steps * given.pairs,
            "eval_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "report_to": given.report_to,
            "use_cpu": not torch.cuda.is_available(),
        }
        arguments = DiffusionTrainingArguments(output_dir=str(Path(folder)), **training)
        trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer, callbacks=[turns])
        trainer.remove_callback(PrinterCallback)
        before = list(trainer.callback_handler.callbacks)
        trainer.add_callback(RunLogCallback(run_name="watched"))
        add_monitoring(trainer, settings.monitoring, data)
        watching = [callback for callback in trainer.callback_handler.callbacks if callback not in before]
        for callback in watching:
            name = type(callback).__name__
            wall, cpu = (
                by_callback.setdefault(name, defaultdict(float)),
                cpu_by_callback.setdefault(name, defaultdict(float)),
            )
            clock_hooks(callback, wall, turns.is_on, cpu)
        trainer.train()
        drawing = next(callback for callback in watching if isinstance(callback, DashboardCallback))
        pictures = len(list(Path(folder).glob("dashboard/training_step_*.png")))
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # the drawing and that of the derived files
    steps_on = given.steps * given.pairs
    in_hooks = _per_step(by_callback, steps_on)
    cpu_in_hooks = _per_step(cpu_by_callback, steps_on)
    without_samples = sum(value for name, value in in_hooks.items() if name != SAMPLES)
    # The last turn pays for what a run pays once, too.
    seconds = {side: values[: given.pairs] for side, values in turns.seconds.items()}
    median = ratio(seconds, "on", "off")
    total = sum(seconds["on"]) / sum(seconds["off"])
    result = {
        "wall_clock_ratio_median_of_pairs": round(median, 4),
        "wall_clock_ratio_of_totals": round(total, 4),
        "hooks_ms_per_step_without_samples": round(without_samples, 4),
        "hooks_share_of_a_step": round(without_samples * given.steps / (1e3 * statistics.median(seconds["off"])), 5),
        "by_callback_ms_per_step": {name: round(value, 4) for name, value in in_hooks.items()},
        "thread_cpu_ms_per_step_without_samples": round(
            sum(value for name, value in cpu_in_hooks.items() if name != SAMPLES), 4
        ),
        "by_callback_thread_cpu_ms_per_step": {name: round(value, 4) for name, value in cpu_in_hooks.items()},
        "drawing_process_cpu_seconds": drawing.drawing_cpu_seconds,
        "all_processes_beside_cpu_seconds": round(children.ru_utime + children.ru_stime, 2),
        "pictures": pictures,
        "median_ms_per_turn": milliseconds(seconds),
        "seconds_on": [round(value, 2) for value in seconds["on"]],
        "seconds_off": [round(value, 2) for value in seconds["off"]],
        "median_step_ms_off": round(1e3 * statistics.median(seconds["off"]) / given.steps, 2),
        "steps_per_turn": given.steps,
        "pairs": given.pairs,
        "report_to": given.report_to,
        "parameters": model.num_parameters(),
    }
    write("callbacks", result, claims(result))


def _per_step(by_callback: dict[str, defaultdict[str, float]], steps: int) -> dict[str, float]:
    """Milliseconds a step in the hooks of each callback, but for those that are called once a run."""
    return {
        name: 1e3 * sum(total for hook, total in hooks.items() if hook not in ONCE) / steps
        for name, hooks in by_callback.items()
    }


if __name__ == "__main__":
    main()
