"""Kill a real training at random moments and resume it: ``python tests/torture_run_log.py --kills 20`` (``make torture``).

After each kill the journal and every file derived from it must be strict JSON, no step may be missing or there twice, and at
most one logging interval may be lost. At the end the run must be complete, with the losses of a run that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hf_difflm.runs import load_run

ROOT = Path(__file__).parents[1]

TRAINING = """
import sys
from pathlib import Path
import torch
from transformers import LlamaConfig, TrainerCallback
from hf_difflm import DiffusionTrainer, DiffusionTrainingArguments, MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.callbacks import RunLogCallback
from hf_difflm.data import load_tokenizer
from hf_difflm.runs.journal.checkpoints import newest_good

class Tell(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:  # the run log has it by now: it is told before the others
            print(state.global_step, flush=True)

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
torch.manual_seed(0)
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=LlamaConfig(vocab_size=260, **sizes)))
rows = [{"input_ids": [256] + [97 + (3 * i + j) % 7 for j in range(15)]} for i in range(64)]
arguments = DiffusionTrainingArguments(
    output_dir=str(folder), per_device_train_batch_size=4, max_steps=steps, logging_steps=1, warmup_steps=0,
    eval_steps=7, eval_replicates=1, save_steps=10, use_cpu=True, disable_tqdm=True,
)
checkpoint, _ = newest_good(folder)
log = RunLogCallback(run_name="tortured", log_save_interval=3, resume=(folder / "journal.jsonl").exists())
trainer = DiffusionTrainer(model, arguments, rows, rows[:8], load_tokenizer("bytes"), callbacks=[log, Tell()])
print("ready", flush=True)
trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
"""


def strict(path: Path) -> Any:
    """The value of a file; raises where it is not JSON as the standard has it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{path} holds {constant}")

    return json.loads(path.read_bytes(), parse_constant=refuse)


def train(folder: Path, steps: int, kill_after: float | None = None) -> int:
    """Train in a process of its own, which is killed so many seconds after its first step; return the last step told."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, "-c", TRAINING, str(folder), str(steps)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        if process.stdout is None:
            raise RuntimeError("no pipe")
        lines = [""]
        while not lines[-1].strip().isdigit():  # the first step; libraries print lines of their own before it
            lines.append(process.stdout.readline())
            if not lines[-1]:
                raise RuntimeError("it ended before its first step")
        if kill_after is not None:
            time.sleep(kill_after)
            process.kill()
        lines += process.stdout.read().splitlines()
    told = [int(line) for line in lines if line.strip().isdigit()]
    return max(told, default=0)


def check(folder: Path, told: int) -> int:
    """Raise AssertionError where something is torn, missing or there twice; return the last step in the journal."""
    run = load_run(folder)
    steps = run.column("iter").tolist()
    assert steps == list(range(1, len(steps) + 1)), f"a gap or a duplicate: {steps}"
    assert told <= len(steps) <= told + 1, f"{len(steps)} steps in the journal, {told} were logged"
    assert run.damaged_lines == 0
    assert len({header.run_id for header in run.headers}) == 1
    evaluated = [evaluation.iter for evaluation in run.evaluations]
    assert evaluated == sorted(set(evaluated)), f"evaluations twice: {evaluated}"
    assert set(evaluated) >= set(range(7, len(steps), 7)), f"evaluations missing: {evaluated}"
    for path in folder.glob("[!.]*.json"):  # a name with a dot in front is a replacement that is still being written
        strict(path)
    return len(steps)


def torture(folder: Path, kills: int, seed: int = 0) -> None:
    """Kill a training ``kills`` times, let it end, and compare it with one that was left alone."""
    generator = random.Random(seed)
    steps = 100 + 60 * kills  # more than can be done between the kills: a run that has ended cannot be killed
    for kill in range(kills):
        last = check(folder / "killed", train(folder / "killed", steps, kill_after=generator.uniform(0.0, 0.4)))
        print(f"kill {kill + 1} of {kills}: the journal ends at step {last} of {steps}", file=sys.stderr)
        assert load_run(folder / "killed").status == "running", "it ended before it was killed"
    check(folder / "killed", train(folder / "killed", steps))
    train(folder / "whole", steps)
    killed, whole = load_run(folder / "killed"), load_run(folder / "whole")
    assert killed.status == whole.status == "completed"
    assert killed.column("iter").tolist() == whole.column("iter").tolist()
    for name in ("loss", "masking_rate", "tokens_seen", "total_flops", "epoch"):
        assert killed.column(name).tolist() == whole.column(name).tolist(), f"{name} differs from the run left alone"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        torture(Path(place), given.kills)
    print(f"{given.kills} kills: nothing torn, nothing missing, nothing twice")
