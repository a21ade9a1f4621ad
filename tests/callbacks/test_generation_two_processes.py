"""Two processes that talk over gloo: both generate, one writes, and the training does not notice.

Run by torchrun, this file is the script of both processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from any_trainer import build_trainer
from generated import generate_texts
from processes.two_processes import run_as_one_of_them, run_two_processes

from hf_difflm.callbacks import RunLogCallback
from hf_difflm.callbacks.generation import GenerationSamplesCallback
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.runs import load_run

KINDS = ("causal", "diffusion")


def train(kind: str, folder: Path, *callbacks: Any) -> dict[str, Any]:
    trainer = build_trainer(kind, folder, *callbacks)
    trainer.train()
    options = GenerationOptions(max_new_tokens=5, temperature=0.0)
    return {
        "ranks": trainer.accelerator.num_processes,
        "weights": {name: value.clone() for name, value in trainer.model.state_dict().items()},
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "greedy": generate_texts(trainer.model, trainer.processing_class, ["a"], options),
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {}
    for kind in KINDS:
        samples = GenerationSamplesCallback(("a",), interval=3, max_new_tokens=5)
        results[kind, "with"] = train(kind, folder / kind, RunLogCallback(run_name="tiny"), samples)
        results[kind, "without"] = train(kind, folder / f"{kind}-without")
    torch.save(results, folder / f"rank{os.environ['RANK']}.pt")


@pytest.mark.slow
def test_both_generate_one_writes_and_the_training_is_the_same(tmp_path):
    run_two_processes(__file__, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    for kind in KINDS:
        for results in ranks:
            ours, plain = results[kind, "with"], results[kind, "without"]
            assert ours["ranks"] == 2
            assert ours["losses"] == plain["losses"]
            assert all(torch.equal(ours["weights"][name], plain["weights"][name]) for name in plain["weights"])
        samples = load_run(tmp_path / kind).samples
        assert [(sample.iter, sample.extra["mode"]) for sample in samples] == [
            (3, "greedy"),
            (3, "sampled"),
            (6, "greedy"),
            (6, "sampled"),
        ]
        assert [samples[2].text] == ranks[0][kind, "with"]["greedy"]


if __name__ == "__main__":
    run_as_one_of_them(main)
