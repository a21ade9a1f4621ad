"""Two processes report, once, the numbers of one process with the same batches; of shards, those of the whole.

Run by torchrun, this file is the script of both processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from any_trainer import build_trainer
from processes.two_processes import run_as_one_of_them, run_two_processes
from reported import Reported
from torch.distributed.fsdp import fully_shard
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_difflm.callbacks.gradients import GradientNormCallback
from hf_difflm.callbacks.model_statistics import ModelStatisticsCallback

STEPS = (2, 4, 6)


def ragged_rows() -> list[list[int]]:
    """Rows of different lengths, so that the two processes have different numbers of tokens."""
    return [[256, *range(97, 98 + place % 9)] for place in range(24)]


def padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [258] * (length - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
        "labels": torch.tensor([row + [-100] * (length - len(row)) for row in rows]),
    }


def trained(folder: Path, batch: int, accumulation: int) -> list[Any]:
    """What is reported of a causal LM in any number of processes."""
    reported = Reported()
    trainer = build_trainer(
        "causal",
        folder,
        reported,
        GradientNormCallback(),
        ModelStatisticsCallback(2),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0.05,
        # Adam divides by the size of the gradients: where they are nearly 0 it would multiply the rounding.
        optim="sgd",
        learning_rate=0.3,
    )
    trainer.train_dataset, trainer.data_collator = ragged_rows(), padded
    trainer.train()
    return reported.records


def stepped_by_hand(folder: Path, shard: bool) -> list[Any]:
    """What is reported of one step of a causal LM, whose weights are cut over the processes or not."""
    trainer = build_trainer("causal", folder)
    model: Any = trainer.model
    if shard:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    args = TrainingArguments(output_dir=str(folder), logging_steps=1, use_cpu=True)
    rank = torch.distributed.get_rank() if shard else 0
    state = TrainerState(max_steps=1, logging_steps=1, is_world_process_zero=rank == 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reported, control = Reported(), TrainerControl()
    callbacks = [reported, GradientNormCallback(), ModelStatisticsCallback(1)]

    def call(hook: str, **kwargs: Any) -> None:
        for callback in callbacks:
            getattr(callback, hook)(args, state, control, model=model, **kwargs)

    call("on_train_begin")
    call("on_step_begin")
    ids_BL = torch.arange(48).view(4, 12)[rank::2] if shard else torch.arange(48).view(4, 12)
    model.train()
    model(input_ids=ids_BL, labels=ids_BL).loss.backward()
    call("on_pre_optimizer_step")
    optimizer.step()
    state.global_step = 1
    call("on_step_end")
    call("on_log", logs={"loss": 1.0})
    return reported.records


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    results = {
        "whole": trained(folder / "whole", 2, 1),
        "accumulated": trained(folder / "accumulated", 1, 2),
        "sharded": stepped_by_hand(folder / "sharded", shard=True),
    }
    torch.save(results, folder / f"rank{os.environ['RANK']}.pt")
    torch.distributed.barrier()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("two")
    run_two_processes(__file__, folder)
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert list(second.values()) == [[], [], []]  # one process reports
    return first


def assert_alike(ours: list[Any], theirs: list[Any]) -> None:
    assert [(record.iter, record.source) for record in ours] == [(record.iter, record.source) for record in theirs]
    for two, one in zip(ours, theirs, strict=True):
        assert two.metrics == pytest.approx(one.metrics, rel=1e-4, abs=1e-6), (two.iter, two.source)
        assert (two.histograms is None) == (one.histograms is None)
        for name, histogram in (one.histograms or {}).items():
            assert_alike_but_for_rounding(two.histograms[name], histogram, name)


def assert_alike_but_for_rounding(ours: dict[str, Any], theirs: dict[str, Any], name: str) -> None:
    assert sum(ours["counts"]) == sum(theirs["counts"]), name
    width = (theirs["high"] - theirs["low"]) / len(theirs["counts"])
    assert (ours["high"] - ours["low"]) / len(ours["counts"]) == width, name
    # The least value may be rounded over an edge, and a few of all.
    shift = round((ours["low"] - theirs["low"]) / width)
    assert abs(shift) <= 1, name
    counts = [0, *ours["counts"], 0][1 - shift :][: len(theirs["counts"])]
    moved = sum(abs(a - b) for a, b in zip(counts, theirs["counts"], strict=True))
    assert moved <= max(4, 0.01 * sum(counts)), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "accumulated"])
def test_two_processes_report_what_one_does_with_the_same_batches(by_two, name, tmp_path):
    ours, theirs = by_two[name], trained(tmp_path, 4, 1)
    assert sorted((record.iter, record.source) for record in ours) == sorted(
        (step, source) for step in STEPS for source in ("gradients", "statistics")
    )
    assert_alike(ours, theirs)


@pytest.mark.slow
def test_of_weights_that_are_cut_into_shards_the_whole_is_reported(by_two, tmp_path):
    theirs = stepped_by_hand(tmp_path, shard=False)
    assert {record.source for record in theirs} == {"gradients", "statistics"}
    assert_alike(by_two["sharded"], theirs)


if __name__ == "__main__":
    run_as_one_of_them(main)
