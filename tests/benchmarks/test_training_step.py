"""``benchmarks/training_step.py`` and ``lm_head.py`` at toy size: every side runs, and all compute the same loss."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--toy", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_all_forms_of_the_head_take_turns_and_agree():
    told = ast.literal_eval(run("lm_head.py", "--pairs", "1"))
    assert set(told["median_ms"]) == {"subs", "full", "labelled", "chunked"}  # it exits where they differ
    assert told["loss"] > 0


@pytest.mark.slow
def test_all_forms_of_the_step_take_turns_and_their_losses_are_equal():
    large, small = json.loads(run("training_step.py", "--pairs", "1", "--steps", "1"))["runs"]
    assert set(large["median_ms_per_step"]) == {"full", "labelled", "chunked"}
    assert set(small["median_ms_per_step"]) == {"full", "labelled"}
    for form, losses in large["losses"].items():
        assert losses == pytest.approx(large["losses"]["full"], rel=1e-4), form
        assert large["peak_memory"][form] > large["peak_memory_above_start"][form] > 0
        assert large["percent_of_product"][form] > 0
