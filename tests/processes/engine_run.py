"""A small training that is the same under every engine, what it left behind, and how several processes are started.

Started by ``accelerate launch``, this file is the script of each process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes.seen_rows import Rows
from processes.two_processes import run_as_one_of_them
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm.callbacks import GenerationSamplesCallback, GradientNormCallback
from hf_difflm.data import load_tokenizer
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "hf_difflm" / "accelerate_configs"
STEPS, CUT = 8, 7  # 6 steps an epoch: the checkpoint lies within the second
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def ragged_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of very different lengths, so that ranks have different numbers of scored tokens."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 20, count)
    return [{"input_ids": [256, *(97 + generator.integers(0, 6, n)).tolist()], "num_bytes": int(n)} for n in sizes]


def build_model(objective: str, vocab_size: int) -> Any:
    torch.manual_seed(0)
    backbone = LlamaConfig(
        vocab_size=vocab_size, tie_word_embeddings=True, initializer_range=0.2, max_position_embeddings=64, **SIZES
    )
    if objective == "ar":
        return LlamaForCausalLM(backbone)
    return MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))


def build_trainer(
    folder: Path, ranks: int, objective: str = "mdlm", vocab_size: int = 260, **settings: Any
) -> DiffusionTrainer:
    defaults = {
        "output_dir": str(folder),
        "objective": objective,
        "global_batch_size": 8,
        "per_device_train_batch_size": 4 // ranks,
        "max_steps": STEPS,
        "learning_rate": 0.02,
        "adam_epsilon": 1e-3,  # Adam would magnify the rounding of tiny gradients
        "max_grad_norm": 1.0,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "eval_replicates": 2,
        "per_device_eval_batch_size": 3,
        "save_strategy": "steps",
        "save_steps": CUT,
        "save_total_limit": None,
        "disable_tqdm": True,
    }
    arguments = DiffusionTrainingArguments(**{**defaults, **settings})
    # Between evaluations, too: what a forward pass of averaged weights leaves behind must not reach the next step.
    samples = GenerationSamplesCallback(("a",), interval=3, max_new_tokens=5, before_training=True)
    trainer = DiffusionTrainer(
        build_model(objective, vocab_size),
        arguments,
        ragged_rows(50, 0),
        ragged_rows(7, 1),
        load_tokenizer("bytes"),
        callbacks=[Rows(), samples, GradientNormCallback()],
    )
    samples.weights = trainer.evaluated_weights
    return trainer


def rows_of(trainer: DiffusionTrainer) -> list[dict[str, Any]]:
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, Rows)).rows


def outcome(trainer: DiffusionTrainer) -> dict[str, Any]:
    return {
        "ranks": trainer.accelerator.num_processes,
        "engine": str(trainer.accelerator.distributed_type),
        "rows": rows_of(trainer),
        "tokens": trainer.state.num_input_tokens_seen,
        "evaluations": [entry for entry in trainer.state.log_history if "eval_nll" in entry],
    }


def launch(config: str, folder: Path, runs: dict[str, Any], engine: str = "", processes: int = 2) -> dict[str, Any]:
    """Run this file under ``accelerate launch`` with one of our configurations; returns what the first process saw.

    Args:
        config: name of the configuration.
        folder: where the runs have their folders, by name.
        runs: settings of each Trainer by name of the run; ``resume`` names a checkpoint in ``folder``.
        engine: what to allow on the CPU: ``fsdp2`` or ``deepspeed``.
        processes: how many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "asked.json").write_text(json.dumps({"engine": engine, "runs": runs}))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
    command += ["--num_processes", str(processes), "--main_process_port", "0", __file__, str(folder)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-6000:]
    return torch.load(folder / "outcome.pt", weights_only=False)


def by_one_process(folder: Path, kinds: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The same trainings in this process; returns what each left behind."""
    outcomes = {}
    for name, settings in kinds.items():
        trainer = build_trainer(folder / name, 1, use_cpu=True, **settings)
        trainer.train()
        outcomes[name] = outcome(trainer)
    return outcomes


def main(folder: Path) -> None:
    from processes.engines_on_cpu import allow_deepspeed, allow_fsdp

    asked = json.loads((folder / "asked.json").read_text())
    if asked["engine"] == "fsdp2":
        allow_fsdp()
    elif asked["engine"] == "deepspeed":
        allow_deepspeed()
    torch.set_num_threads(1)
    outcomes = {}
    for name, settings in asked["runs"].items():
        resume = settings.pop("resume", None)
        use_cpu = asked["engine"] != "deepspeed"  # accelerate has no DeepSpeed where the CPU is asked for
        trainer = build_trainer(folder / name, int(os.environ["WORLD_SIZE"]), use_cpu=use_cpu, **settings)
        trainer.train(resume_from_checkpoint=resume and str(folder / resume))
        outcomes[name] = outcome(trainer)
    if os.environ["RANK"] == "0":
        torch.save(outcomes, folder / "outcome.pt")


if __name__ == "__main__":
    run_as_one_of_them(main)
