"""``benchmarks/trainer_overhead.py`` and ``profile_step.py`` at toy size: real trainings, and numbers that fit each other."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def result_in(printed: str) -> dict:
    """The JSON object that begins in the first column of a line, behind what the Trainer may have printed."""
    return json.JSONDecoder().raw_decode(printed[printed.index("\n{\n") + 1 if not printed.startswith("{\n") else 0 :])[
        0
    ]


@pytest.mark.slow
def test_both_sides_take_turns_and_the_ratio_is_that_of_the_pairs():
    result = result_in(run("trainer_overhead", "--sizes", "toy", "--pairs", "3", "--steps", "2"))
    (toy,), (claim,) = result["runs"], result["claims"]
    seconds = toy["seconds_per_turn"]
    assert [len(turns) for turns in seconds.values()] == [3, 3]
    ratios = [bare / trainer for bare, trainer in zip(seconds["bare"], seconds["trainer"], strict=True)]
    assert toy["step_rate_over_bare"] == claim["value"] == pytest.approx(statistics.median(ratios), rel=1e-2)
    assert claim["holds"] == (claim["value"] >= 0.97)
    assert toy["loss_of_turns"][-1] < toy["loss_of_turns"][0]  # it has been trained


@pytest.mark.slow
def test_a_profile_tells_parts_and_operators_that_add_up_to_the_step():
    printed = run("profile_step", "--size", "toy", "--steps", "2")
    result = result_in(printed)
    parts = result["parts_ms_per_step"]
    assert sum(parts.values()) == pytest.approx(result["ms_per_step"], rel=1e-2)
    assert all(parts[part] > 0 for part in ("data", "forward", "backward", "clipping", "optimizer"))
    kinds = result["operators_ms_per_step"]
    assert kinds["attention"] > 0
    assert kinds["optimizer and moving average"] > 0
    assert all(row["kind"] in kinds for row in result["largest_operators"])
    assert 0 < result["percent_of_product"] < 100
    assert "| attention |" in printed
