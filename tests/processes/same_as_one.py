"""What a training by several processes must have in common with the same training by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.runs import load_run

# Costs, not results. A rank that has a sequence too few reads one a second time, which counts as a forward alone.
COSTS = {
    "time_ms",
    "tokens_per_sec",
    "eval_runtime",
    "eval_samples_per_second",
    "eval_forwards",
    "eval_native_forwards",
}


def assert_same_training(
    ours: Any, theirs: Any, folder: Path, folder_one: Path, objective: str, rel: float = 1e-5
) -> None:
    """All of the below; outcomes as ``engine_run.outcome`` has them, and the folders of the runs."""
    assert ours["tokens"] == theirs["tokens"]
    assert_same_rows(ours["rows"], theirs["rows"], rel)
    assert_same_evaluations(ours["evaluations"], theirs["evaluations"], rel)
    assert_same_best(folder, folder_one, objective)
    assert_same_samples(folder, folder_one)


def assert_same_rows(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], rel: float = 1e-5) -> None:
    """Loss, gradient norm, learning rate, tokens, noise of each step."""
    assert [row["iter"] for row in ours] == [row["iter"] for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        for name in expected.keys() - COSTS:
            wanted = expected[name] and pytest.approx(expected[name], rel=rel)  # the accuracy of most steps is None
            assert row[name] == wanted, (row["iter"], name)


def assert_same_evaluations(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], rel: float = 1e-5) -> None:
    """Each evaluation with its standard errors, which are small and differ by rounding."""
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs]
    for entry, expected in zip(ours, theirs, strict=True):
        for name in expected.keys() - COSTS:
            close = {"rel": 10 * rel, "abs": 1e-6} if "stderr" in name else {"rel": rel, "abs": 1e-6}
            assert entry[name] == pytest.approx(expected[name], **close), (entry["step"], name)


def assert_same_best(ours: Path, theirs: Path, objective: str) -> None:
    """``best/`` loads with nothing but ``from_pretrained``, and holds the same weights."""
    kind: Any = LlamaForCausalLM if objective == "ar" else MaskedDiffusionForMaskedLM
    found, expected = (dict(kind.from_pretrained(run / "best").named_parameters()) for run in (ours, theirs))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5, msg=name)


def assert_same_samples(ours: Path, theirs: Path) -> None:
    """The likeliest texts at each sampling step; drawn ones may hang on the last bit of a probability."""
    found, expected = (
        [(sample.iter, sample.text) for sample in load_run(run).samples if sample.extra["mode"] == "greedy"]
        for run in (ours, theirs)
    )
    assert found == expected
    assert [step for step, _ in found] == [0, 3, 6, 8]
