"""One process against two on the same work: the same optimiser batches, one thread a process, in turn.

A turn is a training of its own, started with torchrun, whose first steps warm up; what counts are the steps after them, as
the first process timed them. Reported beside: the share of a step that is spent waiting for data.
Claim: data-loading wait below 1 % of a step. Two cores must be free for the speed-up to mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _alternate import write
from _claims import Claim
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm import data as texts
from hf_difflm.data import load_tokenizer
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models.build import build_denoiser

TOY = {"dataset": "markov", "block_size": 33, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


class _Waits:
    """An iterator that adds up the seconds its reader waits for it."""

    def __init__(self, iterator, clock: _Clock) -> None:
        self._iterator, self._clock = iterator, clock

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        try:
            return next(self._iterator)
        finally:
            self._clock.waited += time.perf_counter() - start


class _Clock(TrainerCallback):
    """Seconds of each optimiser step, and of the waiting for data in it."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.steps: list[tuple[float, float]] = []
        self._mark = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self._mark, self.waited = time.perf_counter(), 0.0

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        self.steps.append((now - self._mark, self.waited))
        self._mark, self.waited = now, 0.0


class _ClockedTrainer(DiffusionTrainer):
    """Clocks what each window of micro-batches waits for."""

    clock: _Clock

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        return super().get_batch_samples(_Waits(epoch_iterator, self.clock), num_batches, device)


def train(toy: bool, steps: int, warmup: int, result: Path) -> None:
    """What each process of a turn does."""
    torch.set_num_threads(1)
    options = TOY | {"global_batch_size": 8, "per_device_train_batch_size": 4} if toy else {}
    settings = load_settings("demo", {"per_device_train_batch_size": 16, **options})
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    set_seed(0)
    model = build_denoiser(settings.model, tokenizer, settings.data.block_size)
    training = settings.training | {
        "max_steps": warmup + steps,
        "logging_steps": warmup + steps,
        "eval_strategy": "no",
        "save_strategy": "no",
        "save_log_to_json": False,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = DiffusionTrainingArguments(output_dir=folder, **training)
        clock = _Clock()
        trainer = _ClockedTrainer(model, arguments, data.train, None, tokenizer, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        trainer.clock = clock
        trainer.train()
    if trainer.is_world_process_zero():
        seconds, waited = zip(*clock.steps[warmup:], strict=True)
        report = {
            "seconds": sum(seconds),
            "waited": sum(waited),
            "loss": trainer.state.log_history[0]["loss"],
            "sequences_per_step": arguments.global_batch_size,
            "accumulation": arguments.gradient_accumulation_steps,
            "tokens": settings.data.block_size * arguments.global_batch_size * steps,
            "parameters": model.num_parameters(),
        }
        result.write_text(json.dumps(report))


def turn(processes: int, given: argparse.Namespace) -> dict:
    """One training with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command += [__file__, "--steps", str(given.steps), "--warmup", str(given.warmup), "--result", str(result)]
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
        done = subprocess.run(
            command + ["--toy"] * given.toy, env=environment, capture_output=True, text=True, timeout=1800
        )
        if done.returncode:
            raise SystemExit(f"the training with {processes} processes failed:\n{done.stderr[-4000:]}")
        return json.loads(result.read_text())


def claims(result: dict) -> list[Claim]:
    """What the numbers of a run say of the claim."""
    percent = {f"{n} process{'' if n == '1' else 'es'}": 100 * share for n, share in result["wait_share"].items()}
    return [
        Claim(
            what="a step's wait for its data, the demo's size",
            sides={name: round(value, 3) for name, value in percent.items()},
            unit="% of a step",
            measure="the larger, % of a step",
            value=max(percent.values()),
            asked="< 1",
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps of a turn that count")
    parser.add_argument("--warmup", type=int, default=5, help="steps before them")
    parser.add_argument("--toy", action="store_true", help="a network that takes milliseconds, to try this out")
    parser.add_argument("--output", type=Path, help="write the result here, too")
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.result is not None:
        train(given.toy, given.steps, given.warmup, given.result)
        os._exit(0)  # the result is written; a thread of gloo may abort a process that is taken down
    turns: dict[int, list[dict]] = {1: [], 2: []}
    for _ in range(given.pairs):
        for processes, done in turns.items():
            done.append(turn(processes, given))
    if abs(turns[1][0]["loss"] - turns[2][0]["loss"]) > 1e-3 * turns[1][0]["loss"]:
        raise SystemExit(f"one and two processes did not do the same work: losses {turns[1][0]}, {turns[2][0]}")
    speedups = [one["seconds"] / two["seconds"] for one, two in zip(turns[1], turns[2], strict=True)]
    waits = {str(n): statistics.median(t["waited"] / t["seconds"] for t in done) for n, done in turns.items()}
    steps_ms = {str(n): 1e3 * statistics.median(t["seconds"] for t in done) / given.steps for n, done in turns.items()}
    for n in turns:
        print(
            f"{n} process{'es' if n > 1 else '':2}: {steps_ms[str(n)]:8.1f} ms a step, waits for data {waits[str(n)]:.2%}"
        )
    print(f"two processes are {statistics.median(speedups):.3f} times as fast as one")
    result = {
        "wait_share": {n: round(share, 5) for n, share in waits.items()},
        "speedup_of_2": round(statistics.median(speedups), 4),
        "speedups": [round(speedup, 4) for speedup in speedups],
        "median_ms_per_step": {n: round(ms, 3) for n, ms in steps_ms.items()},
        "pairs": given.pairs,
        "steps_per_turn": given.steps,
        "threads_per_process": 1,
        "cores": os.cpu_count(),
        "parameters": turns[1][0]["parameters"],
        "sequences_per_step": turns[1][0]["sequences_per_step"],
        "accumulation": {str(n): done[0]["accumulation"] for n, done in turns.items()},
        "data": "map-style blocks, collated in the training process",
    }
    if given.output is not None:
        given.output.write_text(json.dumps(result, indent=2) + "\n")
    if not given.toy:
        write("scaling", result, claims(result))


if __name__ == "__main__":
    main()
