"""Where the time of a training step goes: DiffusionTrainer with everything logged, at one of the sizes of ``_sizes.py``.

Three views of three blocks of steps of one training, so that no measurement disturbs another: the wall-clock of the parts of
a step; the operators' own time, by kind (torch.profiler); the Python functions with the most time of their own (cProfile).
Statistics of weights and activations and the dashboard, which are rare, fall into the last. Beside them the share of this
machine's own rate of float32 matrix products that the step reaches with its model FLOPs.
Made to be read, not to claim anything; docs/performance.md holds such a table.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from _alternate import write
from _card import product_rate
from _operators import KINDS
from _profile import BLOCKS, PARTS, Blocks, Parts, operators
from _sizes import SIZES, flags_of
from trainer_overhead import watched
from transformers import PrinterCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm import data as texts
from hf_difflm.callbacks import RunLogCallback
from hf_difflm.data import load_tokenizer
from hf_difflm.experiments.monitoring import add_monitoring
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule


def train(size: str, steps: int) -> tuple[Blocks, dict[str, Any]]:
    """Train as many steps in each block; return what was seen, and the sizes."""
    settings = watched(load_settings("demo", flags_of(size)), steps, len(BLOCKS))
    settings.monitoring.statistics_interval = steps * len(BLOCKS)  # rare by default: once, in the last block
    settings.monitoring.viz_interval = steps * len(BLOCKS)
    tokenizer = load_tokenizer(settings.data.tokenizer)
    data = texts.prepare_data(settings.data, tokenizer)
    set_seed(0)
    model = build_denoiser(settings.model, tokenizer, settings.data.block_size, NoiseSchedule())
    blocks = Blocks(steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DiffusionTrainingArguments(output_dir=folder, **settings.training)
        trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer, callbacks=[blocks])
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(RunLogCallback(run_name=size, log_save_interval=arguments.log_save_interval))
        add_monitoring(trainer, settings.monitoring, data)
        blocks.parts = Parts(trainer)
        trainer.train()
    sizes = {
        "size": size,
        "vocabulary": model.config.vocab_size,
        "parameters": model.num_parameters(),
        "tokens_per_step": settings.training["global_batch_size"] * settings.data.block_size,
    }
    return blocks, sizes


def by_function(profile: cProfile.Profile, steps: int, most: int = 12) -> list[tuple[str, float, float]]:
    """Name, calls a step and milliseconds a step of its own, of the Python functions with the most."""
    table: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    own = sorted(((values[2], values[1], where) for where, values in table.items()), reverse=True)[:most]
    return [(_function(*where), calls / steps, 1e3 * seconds / steps) for seconds, calls, where in own]


def _function(file: str, line: int, name: str) -> str:
    return name if file == "~" else f"{Path(file).parent.name}/{Path(file).name}:{name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="large_vocabulary")
    parser.add_argument("--steps", type=int, default=10, help="optimiser steps in each block; the last one logs")
    given = parser.parse_args()
    steps = given.steps
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    before = product_rate(device, (2048, 2048, 2048), 7, torch.float32)
    blocks, sizes = train(given.size, steps)
    after = product_rate(device, (2048, 2048, 2048), 7, torch.float32)
    assert blocks.parts is not None
    whole = 1e3 * blocks.seconds["parts"] / steps
    parts = {part: 1e3 * blocks.parts.seconds[part] / steps for part in PARTS}
    parts["the rest, logging included"] = whole - sum(parts.values())
    python = by_function(blocks.python, steps)
    by_operator = operators(blocks.operators, sizes["vocabulary"], steps)
    kinds = {kind: sum(row["ms"] for row in by_operator if row["kind"] == kind) for kind in KINDS}
    rate = sum(blocks.flops[step] for step in range(steps + 1, 2 * steps + 1)) / blocks.seconds["parts"]
    product = statistics.mean((before, after))
    result = {
        **sizes,
        "steps": steps,
        "ms_per_step": round(whole, 2),
        "parts_ms_per_step": {name: round(value, 3) for name, value in parts.items()},
        "operators_ms_per_step": {name: round(value, 3) for name, value in kinds.items()},
        "largest_operators": [row | {"ms": round(row["ms"], 2)} for row in by_operator[:15]],
        "python_ms_per_step": [[name, round(calls, 1), round(value, 3)] for name, calls, value in python],
        "product_flops_per_sec": [before, after],
        "model_flops_per_sec": rate,
        "percent_of_product": round(100 * rate / product, 1),
    }
    if given.size == "toy":  # tried out, not measured
        print(json.dumps(result, indent=2))
    else:
        write("profile_step", result)
    for title, table in (("part", parts), ("operators", kinds)):
        print(f"\n| {title} | ms a step | share |\n|---|--:|--:|")
        total = sum(table.values())
        for name, value in table.items():
            print(f"| {name} | {value:.2f} | {100 * value / total:.1f} % |")
    print(f"\n{result['percent_of_product']} % of this machine's rate of float32 products, {product / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
