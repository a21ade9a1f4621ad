"""Two processes that talk over gloo train, evaluate, save and resume as one process does with the same optimiser batches.

Run by torchrun, this file is the script of both processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes.seen_rows import Rows
from processes.two_processes import run_as_one_of_them, run_two_processes
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm.data import load_tokenizer
from hf_difflm.data.packing.rows import packed_row, rows_of
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.objectives import gradient_moments
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments

# Objective and accumulation: 2 processes x 4 sequences, and 2 x 2 accumulated twice. One evaluates until it knows enough.
RUNS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "mdlm": ("mdlm", 1, {"target_stderr": 0.015, "max_eval_replicates": 100}),
    "mdlm-accumulated": ("mdlm", 2, {"head_chunk_rows": 8}),
    "pairs-accumulated": ("pairs", 2, {}),
    "bell": ("bell", 2, {"count_law": "bell", "loss_weight": "flat"}),
    "optimal": ("optimal", 2, {"count_law": "optimal"}),
    "ar": ("ar", 1, {}),
    "ar-accumulated": ("ar", 2, {}),
    "packed-accumulated": ("packed", 2, {}),
}
STEPS, CUT = 8, 7  # 6 steps an epoch: the checkpoint lies within the second


def ragged_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of very different lengths, so that the two ranks have different numbers of scored tokens."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(3, 20, count)
    return [{"input_ids": [256, *(97 + generator.integers(0, 6, n)).tolist()], "num_bytes": int(n)} for n in sizes]


def packed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """50 rows of several documents of those rows."""
    ids = [np.array(row["input_ids"]) for row in rows]
    found = rows_of(map(len, ids), 32, "best-fit")
    return [packed_row([(piece, ids[piece], None) for piece in row]) for row in found[:50]]


PERIOD, DELAY = 2, 1  # the optimal law is measured, and in use, within these few steps


@pytest.fixture(autouse=True)
def measured_soon(monkeypatch):
    monkeypatch.setattr(gradient_moments, "_PERIOD", PERIOD)
    monkeypatch.setattr(gradient_moments, "_DELAY", DELAY)


def make_trainer(
    folder: Path, objective: str, accumulation: int, settings: dict[str, Any], ranks: int
) -> tuple[DiffusionTrainer, Rows]:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = LlamaConfig(vocab_size=260, tie_word_embeddings=True, initializer_range=0.2, **sizes)
    model: Any = LlamaForCausalLM(backbone)
    if objective != "ar":
        model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    arguments = DiffusionTrainingArguments(
        output_dir=str(folder),
        objective="ar" if objective == "ar" else "mdlm",
        noise_sampling="pairs" if objective == "pairs" else "stratified",
        global_batch_size=8,
        per_device_train_batch_size=8 // ranks // accumulation,
        max_steps=STEPS,
        optim="sgd",
        learning_rate=0.3,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=4,
        eval_replicates=2,
        per_device_eval_batch_size=3,
        save_strategy="steps",
        save_steps=CUT,
        save_total_limit=None,
        ema_decay=0.9,
        save_log_to_json=False,
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    seen = Rows()
    rows = packed(ragged_rows(170, 0)) if objective == "packed" else ragged_rows(50, 0)
    trainer = DiffusionTrainer(model, arguments, rows, ragged_rows(17, 1), load_tokenizer("bytes"), callbacks=[seen])
    return trainer, seen


def outcome(trainer: DiffusionTrainer, seen: Rows) -> dict[str, Any]:
    return {
        "ranks": trainer.accelerator.num_processes,
        "rows": seen.rows,
        "tokens": trainer.state.num_input_tokens_seen,
        "evaluations": [entry for entry in trainer.state.log_history if "eval_nll" in entry],
        "weights": {name: p.detach().clone() for name, p in trainer.model.named_parameters()},
        "average": [shadow.clone() for shadow in trainer.ema._shadow],
    }


def train_and_resume(
    folder: Path, objective: str, accumulation: int, settings: dict[str, Any], ranks: int
) -> dict[str, Any]:
    whole, rows = make_trainer(folder, objective, accumulation, settings, ranks)
    whole.train()
    again, rows_again = make_trainer(folder, objective, accumulation, settings, ranks)
    again.train(resume_from_checkpoint=str(folder / f"checkpoint-{CUT}"))
    return {"whole": outcome(whole, rows), "resumed": outcome(again, rows_again)}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    gradient_moments._PERIOD, gradient_moments._DELAY = PERIOD, DELAY
    results = {name: train_and_resume(folder / name, *run, ranks=2) for name, run in RUNS.items()}
    torch.save(results, folder / f"rank{os.environ['RANK']}.pt")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    run_two_processes(__file__, folder)
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    for name in RUNS:  # both ranks end with the same weights, average, numbers
        first, second = (rank[name]["whole"] for rank in ranks)
        assert first["ranks"] == 2
        assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])
        assert all(torch.equal(a, b) for a, b in zip(first["average"], second["average"], strict=True))
        assert [e["eval_nll"] for e in first["evaluations"]] == [e["eval_nll"] for e in second["evaluations"]]
    return ranks[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_and_evaluate_as_one(by_two, name, tmp_path):
    """Against one process that takes the optimiser batch in one piece."""
    objective, _, settings = RUNS[name]
    trainer, rows = make_trainer(tmp_path, objective, 1, settings, ranks=1)
    trainer.train()
    one, two = outcome(trainer, rows), by_two[name]["whole"]
    assert [row["iter"] for row in two["rows"]] == list(range(1, STEPS + 1))
    assert two["tokens"] == one["tokens"]
    for ours, theirs in zip(two["rows"], one["rows"], strict=True):
        for key in theirs.keys() - {"time_ms", "tokens_per_sec"}:
            expected = theirs[key] and pytest.approx(theirs[key], rel=1e-5)  # the accuracy of most steps is None
            assert ours[key] == expected, (ours["iter"], key)
    for key, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][key], weight, rtol=1e-5, atol=1e-5, msg=key)
    assert [entry["step"] for entry in two["evaluations"]] == [4, 8]
    for ours, theirs in zip(two["evaluations"], one["evaluations"], strict=True):
        # 17 sequences on two ranks: one of them reads one a second time, which counts as a forward alone.
        for key in theirs.keys() - {"eval_runtime", "eval_samples_per_second", "eval_forwards"}:
            close = 1e-4 if "stderr" in key else 1e-5  # an error of a mean is a difference of nearly equal numbers
            assert ours[key] == pytest.approx(theirs[key], rel=close, abs=1e-6), key
        if "target_stderr" in settings:
            assert 4 < ours["eval_replicates"] < 100
            assert ours["eval_nll_stderr"] <= settings["target_stderr"]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_resume_within_a_later_epoch_as_if_never_stopped(by_two, name):
    whole, resumed = by_two[name]["whole"], by_two[name]["resumed"]
    assert [row["iter"] for row in resumed["rows"]] == [8]
    for key, weight in whole["weights"].items():
        torch.testing.assert_close(resumed["weights"][key], weight, rtol=0, atol=1e-6, msg=key)
    assert resumed["tokens"] == whole["tokens"]
    assert resumed["evaluations"][-1]["eval_nll"] == pytest.approx(whole["evaluations"][-1]["eval_nll"], abs=1e-6)


if __name__ == "__main__":
    run_as_one_of_them(main)
