"""A run is resumed by another number of processes (or the same) as if it had never been stopped, to 1e-5.

Run by torchrun, this file is the script of both processes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from killable_training import markov_rows
from processes.seen_rows import Rows
from processes.two_processes import run_as_one_of_them, run_two_processes
from transformers import LlamaConfig

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.runs.journal.checkpoints import newest_good
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

STEPS, CUT = 8, 7  # 6 steps an epoch: the checkpoint lies within the second, and between two logging steps


def make_trainer(folder: Path, ranks: int, **settings: Any) -> tuple[DiffusionTrainer, Rows]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = LlamaConfig(vocab_size=260, tie_word_embeddings=True, initializer_range=0.2, **sizes)
    arguments = DiffusionTrainingArguments(
        **{
            "output_dir": str(folder),
            "global_batch_size": 8,
            "per_device_train_batch_size": 4 // ranks,
            "max_steps": STEPS,
            "learning_rate": 0.02,
            "adam_epsilon": 1e-3,  # Adam would magnify the rounding of tiny gradients
            "logging_steps": 2,
            "eval_strategy": "steps",
            "eval_steps": 4,
            "eval_replicates": 1,
            "save_strategy": "steps",
            "save_steps": CUT,
            "ema_decay": 0.9,
            "save_log_to_json": False,
            "use_cpu": True,
            "disable_tqdm": True,
            **settings,
        }
    )
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    rows = [{"input_ids": row} for row in markov_rows(57, 12)]
    seen = Rows()
    trainer = DiffusionTrainer(model, arguments, rows[:50], rows[50:], load_tokenizer("bytes"), callbacks=[seen])
    return trainer, seen


def finish(folder: Path, ranks: int, resume: bool = False) -> dict[str, Any]:
    """Train, or go on from the checkpoint that the folder holds; return what there is to compare."""
    trainer, seen = make_trainer(folder, ranks)
    trainer.train(resume_from_checkpoint=resume)
    assert trainer.accelerator.num_processes == ranks
    return {
        "rows": seen.rows,
        "tokens": trainer.state.num_input_tokens_seen,
        "best": (trainer.state.best_metric, trainer.state.best_global_step),
        "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters()},
        "average": [shadow.clone() for shadow in trainer.ema._shadow],
        "lr": trainer.lr_scheduler.get_last_lr(),
    }


def stopped(run: Path, copy: Path) -> None:
    """A copy of a run that was stopped after its checkpoint in the middle."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(f"checkpoint-{STEPS}"))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    is_main = os.environ["RANK"] == "0"
    results = {"two": finish(folder / "two", 2)}
    if is_main:
        stopped(folder / "two", folder / "two-then-two")
        stopped(folder / "two", folder / "two-then-one")
    torch.distributed.barrier()
    for name in ("two-then-two", "one-then-two"):
        results[name] = finish(folder / name, 2, resume=True)
    try:
        explicit = {"global_batch_size": None, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        make_trainer(folder / "one-then-two", 2, **explicit)[0].train(resume_from_checkpoint=True)
    except UserError as error:
        results["refused"] = str(error)
    if is_main:
        torch.save(results, folder / "results.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("processes")
    one = finish(folder / "one", 1)
    stopped(folder / "one", folder / "one-then-two")
    run_two_processes(__file__, folder, timeout=500)
    found = torch.load(folder / "results.pt", weights_only=False)
    return found | {"one": one, "two-then-one": finish(folder / "two-then-one", 1, resume=True), "folder": folder}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one-then-two", "two-then-one", "two-then-two"])
def test_resumed_by_another_number_of_processes_it_ends_as_one_process_does(results, name):
    ours, whole = results[name], results["one"]
    assert [row["iter"] for row in ours["rows"]] == [8]
    for key in ("loss", "lr", "grad_norm", "noise_level", "masking_rate"):
        assert ours["rows"][-1][key] == pytest.approx(whole["rows"][-1][key], rel=1e-5), key
    for key, weight in whole["weights"].items():
        torch.testing.assert_close(ours["weights"][key], weight, rtol=1e-5, atol=1e-5, msg=key)
    for one, another in zip(ours["average"], whole["average"], strict=True):
        torch.testing.assert_close(one, another, rtol=1e-5, atol=1e-5)
    assert (ours["tokens"], ours["lr"]) == (whole["tokens"], whole["lr"])
    assert ours["best"] == (pytest.approx(whole["best"][0], rel=1e-5), whole["best"][1])


@pytest.mark.slow
def test_the_manifest_vouches_for_the_files_of_all_processes(results):

    checkpoint, warnings = newest_good(results["folder"] / "two")
    assert warnings == []
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", "ema.safetensors", "resume.json"} <= files.keys()


@pytest.mark.slow
def test_a_cut_that_changes_the_optimiser_batch_is_refused_naming_the_accumulation_that_keeps_it(results):
    assert "with an optimiser batch of 16 sequences, since it was started with 8" in results["refused"]
    assert results["refused"].endswith("gradient_accumulation_steps 1 keeps the optimiser batch of 8 sequences")


if __name__ == "__main__":
    run_as_one_of_them(main)
