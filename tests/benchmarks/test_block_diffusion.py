"""``benchmarks/block_diffusion.py`` and ``benchmarks/few_rows.py`` at toy size: all sides run in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def toy(name: str):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--toy", "--pairs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_texts_and_steps_run_in_turn_and_the_forwards_are_those_there_must_be():
    found = toy("block_diffusion.py")
    assert set(found["texts"]["over_blocks"]) == {"linear", "ddpm_cache", "autoregressive", "blocks of half the steps"}
    forwards = found["texts"]["mean_forwards_a_text"]
    assert forwards["blocks"] <= found["texts"]["steps"]
    assert forwards["blocks of half the steps"] <= found["texts"]["steps"] / 2
    assert all(run["bd3lm_over_mdlm"] > 0 for run in found["steps"])


@pytest.mark.slow
def test_a_head_of_few_rows_is_timed_both_ways():
    assert {run["rows"] for run in toy("few_rows.py")["runs"]} >= {1, 2, 16}
