"""A whole training step, everything logged: the LM head at labelled positions, at once or in chunks, or at every position.

One Trainer trains one model, whose head takes turns: labelled, chunked, full. Each form also trains by itself in a process of
its own, which tells its peak memory and the losses, which must be those of the others: the noise is the same.
Claims: labelled at least 1.6 times as fast as full at 50,258 tokens (batch 8), at most 0.75 of its memory, chunked 0.6; at
258 tokens (batch 16) not slower. The share of this machine's rate of float32 products counts the FLOPs that the loss needs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from _alternate import milliseconds, ratio, write
from _card import product_rate, synchronize
from _claims import Claim
from _full_head import FullHead
from _process_memory import peak, resident
from _sizes import flags_of
from trainer_overhead import watched
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments, MaskedDiffusionForMaskedLM
from hf_difflm import data as texts
from hf_difflm.callbacks import RunLogCallback
from hf_difflm.data import load_tokenizer
from hf_difflm.experiments.monitoring import add_monitoring
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule

CLAIM_SPEED, CLAIM_SMALL, CLAIM_LABELLED, CLAIM_CHUNKED = 1.6, 1.0, 0.75, 0.6
SMALL = {
    "block_size": 256,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "global_batch_size": 16,
    "per_device_train_batch_size": 16,
}
FORMS = ("full", "labelled", "chunked")
_TOLERANCE = 1e-4  # of losses after a few steps: sums in another order


class _Turns(TrainerCallback):
    """Hands the head from form to form; a turn begins with a step, so that it ends with what its last step logs."""

    def __init__(
        self, model: MaskedDiffusionForMaskedLM, forms: tuple[str, ...], steps: int, chunk: int | None
    ) -> None:
        self.model, self.forms, self.steps, self.chunk = model, forms, steps, chunk
        self.seconds: dict[str, list[float]] = {form: [] for form in forms}
        self.flops: dict[str, list[float]] = {form: [] for form in forms}
        self._mark = self._flops = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        turn, step = divmod(state.global_step, self.steps)
        if step == 0:
            self._end(turn - 1, state.total_flos)
            form = self.forms[turn % len(self.forms)]
            self.model.__class__ = FullHead if form == "full" else MaskedDiffusionForMaskedLM
            self.model.head_chunk_rows = self.chunk if form == "chunked" else 0
            self._flops, self._mark = state.total_flos, self._now()

    def _end(self, turn: int, flops: float) -> None:
        if turn >= len(self.forms):  # the first turn of each form warms up
            form = self.forms[turn % len(self.forms)]
            self.seconds[form].append(self._now() - self._mark)
            self.flops[form].append(flops - self._flops)

    def _now(self) -> float:
        synchronize(self.model.device)
        return time.perf_counter()


class _Losses(TrainerCallback):
    """Keeps the loss of each step, as it is logged."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def train(flags: dict[str, Any], forms: tuple[str, ...], steps: int, turns: int, chunk: int | None) -> dict[str, Any]:
    """Train with the forms in turn, everything logged; return the seconds and FLOPs of the turns and the logged losses."""
    settings = watched(load_settings("demo", flags), steps, turns)
    settings.training["max_steps"] += 1  # the last turn ends where another would begin
    # What is rare must not fall into the turns of one form alone.
    rare = (len(forms) + 1) * steps
    settings.training["log_save_interval"] = rare
    settings.monitoring.viz_interval = settings.monitoring.statistics_interval = rare
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    set_seed(0)
    model = build_denoiser(settings.model, tokenizer, settings.data.block_size, NoiseSchedule())
    seen, logged = _Turns(model, forms, steps, chunk), _Losses()
    with tempfile.TemporaryDirectory() as folder:
        arguments = DiffusionTrainingArguments(output_dir=folder, **settings.training)
        trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer, callbacks=[seen, logged])
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(RunLogCallback(run_name="training_step", log_save_interval=arguments.log_save_interval))
        add_monitoring(trainer, settings.monitoring, data)
        before = resident()
        trainer.train()
    return {
        "seconds": seen.seconds,
        "flops": seen.flops,
        "losses": logged.losses,
        "parameters": model.num_parameters(),
        "vocabulary": model.config.vocab_size,
        "memory_at_start": before,
        "peak_memory": peak(),
    }


def alone(name: str, form: str, steps: int, toy: bool) -> dict[str, Any]:
    """Train with one form in a process of its own; its losses and bytes at most above those before the first step."""
    command = [sys.executable, __file__, "--alone", name, form, "--steps", str(steps), *(["--toy"] if toy else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"training with the head {form} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(name: str, forms: tuple[str, ...], steps: int, pairs: int, toy: bool) -> dict[str, Any]:
    """Take turns, then train with each form alone."""
    flags, chunk = _flags(name, toy)
    done = train(flags, forms, steps, (pairs + 1) * len(forms), chunk)
    each = {form: alone(name, form, steps, toy) for form in forms}
    for form in forms:
        pairs_of_losses = zip(each[form]["losses"], each["full"]["losses"], strict=True)
        if any(abs(a - b) > _TOLERANCE * abs(b) for a, b in pairs_of_losses):
            raise SystemExit(f"losses differ: {[each[f]['losses'] for f in (form, 'full')]}")
    seconds = done["seconds"]
    rates = {
        form: statistics.median(f / s for f, s in zip(done["flops"][form], seconds[form], strict=True))
        for form in forms
    }
    memory = {form: each[form]["peak_memory"] for form in forms}
    above = {form: memory[form] - each[form]["memory_at_start"] for form in forms}
    return {
        "size": name,
        "vocabulary": done["vocabulary"],
        "parameters": done["parameters"],
        "steps_per_turn": steps,
        "pairs": len(seconds["full"]),
        "median_ms_per_step": {form: round(value / steps, 2) for form, value in milliseconds(seconds).items()},
        "full_over": {form: round(ratio(seconds, "full", form), 4) for form in forms if form != "full"},
        "model_flops_per_sec": rates,
        "peak_memory": memory,
        "peak_memory_above_start": above,
        "losses": {form: each[form]["losses"] for form in forms},
        "seconds_per_turn": {form: [round(value, 4) for value in values] for form, values in seconds.items()},
    }


def claims_of(large: dict[str, Any], small: dict[str, Any]) -> list[Claim]:
    """What is claimed of the two sizes. Memory is that of the whole process, imports and all."""
    memory = {form: round(value / 2**20) for form, value in large["peak_memory"].items()}

    def speed(run: dict[str, Any], form: str, asked: float) -> Claim:
        return Claim(
            what=f"training step, everything logged, head {form} against full (vocabulary {run['vocabulary']:,})",
            sides={side: run["median_ms_per_step"][side] for side in ("full", form)},
            unit="ms a step",
            measure=f"time, full / {form}",
            value=run["full_over"][form],
            asked=f">= {asked}",
        )

    def bytes_of(form: str, asked: float) -> Claim:
        return Claim(
            what=f"peak memory of the training process, head {form} against full (vocabulary {large['vocabulary']:,})",
            sides={side: memory[side] for side in ("full", form)},
            unit="MiB",
            measure=f"memory, {form} / full",
            value=large["peak_memory"][form] / large["peak_memory"]["full"],
            asked=f"<= {asked}",
        )

    return [
        speed(large, "labelled", CLAIM_SPEED),
        speed(large, "chunked", CLAIM_SPEED),
        speed(small, "labelled", CLAIM_SMALL),
        bytes_of("labelled", CLAIM_LABELLED),
        bytes_of("chunked", CLAIM_CHUNKED),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="turns of each form; twice as many at 258 tokens")
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps in a turn; the last one logs")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to try this out; nothing is written")
    parser.add_argument(
        "--alone", nargs=2, metavar=("SIZE", "FORM"), help="train with one form and tell memory and losses"
    )
    given = parser.parse_args()
    if given.alone:
        name, form = given.alone
        flags, chunk = _flags(name, given.toy)
        done = train(flags, (form,), 1, 2 * given.steps, chunk)
        print(json.dumps({key: done[key] for key in ("losses", "memory_at_start", "peak_memory")}))
        return
    size = 64 if given.toy else 2048
    before = product_rate(torch.device("cpu"), (size, size, size), 5, torch.float32)
    large = measure("large_vocabulary", FORMS, given.steps, given.pairs, given.toy)
    small = measure("small_vocabulary", FORMS[:2], given.steps, 2 * given.pairs, given.toy)
    product = statistics.mean((before, product_rate(torch.device("cpu"), (size, size, size), 5, torch.float32)))
    for run in (large, small):
        rates = run.pop("model_flops_per_sec")
        run["percent_of_product"] = {form: round(100 * rate / product, 1) for form, rate in rates.items()}
    result = {"product_flops_per_sec": product, "runs": [large, small]}
    if given.toy:
        print(json.dumps(result))
    else:
        write("training_step", result, claims_of(large, small))


def _flags(name: str, toy: bool) -> tuple[dict[str, Any], int | None]:
    """The flags of a size, and the chunks in which its head runs: what the model chooses by itself."""
    if toy:
        return flags_of("toy"), 5
    return (SMALL, 512) if name == "small_vocabulary" else (flags_of(name), None)


if __name__ == "__main__":
    main()
