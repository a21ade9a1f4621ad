"""What the run log costs a training: the summed time in its hooks, per optimiser step, on a real training.

Claim: below 0.1 ms a step, with a logging step every 10. The derived files are rebuilt by a process beside the training:
only asking for it, and starting that process, is part of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from _alternate import write
from _claims import Claim
from _hooks import ONCE, clock_hooks
from transformers import PrinterCallback, set_seed

from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments
from hf_difflm.callbacks import RunLogCallback
from hf_difflm.data import load_tokenizer
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.options import ModelOptions


def claims(result: dict) -> list[Claim]:
    """What the numbers of a run say of the claim."""
    hooks = result["hooks_ms_per_step"]
    return [
        Claim(
            what=f"the run log's hooks, logging every {result['logging_steps']} steps",
            sides={"hooks": hooks, "step": result["training_ms_per_step"]},
            unit="ms a step",
            measure="hooks, ms a step",
            value=hooks,
            asked="< 0.1",
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--logging-steps", type=int, default=10)
    given = parser.parse_args()
    set_seed(0)
    tokenizer = load_tokenizer("bytes")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = build_denoiser(ModelOptions(**sizes), tokenizer, block_size=64)
    rows = [{"input_ids": [256] + [97 + (3 * i + j) % 26 for j in range(63)]} for i in range(512)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = DiffusionTrainingArguments(
            output_dir=str(Path(folder)),
            max_steps=given.steps,
            logging_steps=given.logging_steps,
            eval_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            log_level="error",
            use_cpu=not torch.cuda.is_available(),
        )
        log = RunLogCallback(run_name="clocked")
        by_hook: defaultdict[str, float] = defaultdict(float)
        clock_hooks(log, by_hook)
        trainer = DiffusionTrainer(model, arguments, rows, None, tokenizer, callbacks=[log])
        trainer.remove_callback(PrinterCallback)
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        size = (Path(folder) / "journal.jsonl").stat().st_size
    # The beginning and the end are paid once a run.
    once = {name: by_hook.pop(name) for name in ONCE if name in by_hook}
    milliseconds = 1e3 * sum(by_hook.values()) / given.steps
    result = {
        "hooks_ms_per_step": round(milliseconds, 4),
        "by_hook_ms_per_step": {name: round(1e3 * total / given.steps, 4) for name, total in by_hook.items()},
        "once_ms": {name: round(1e3 * total, 1) for name, total in once.items()},
        "training_ms_per_step": round(1e3 * seconds / given.steps, 2),
        "share": round(milliseconds * given.steps / (1e3 * seconds), 4),
        "steps": given.steps,
        "logging_steps": given.logging_steps,
        "journal_bytes_per_step": round(size / given.steps),
    }
    write("run_log", result, claims(result))


if __name__ == "__main__":
    main()
