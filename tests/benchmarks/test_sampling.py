"""``benchmarks/sampling.py`` at toy size: all sides run in turn, and the forwards it tells are those there must be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_sides_generate_in_turn_and_the_ratios_are_told():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks/sampling.py"), "--toy", "--pairs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for run in json.loads(done.stdout)["runs"]:
        assert set(run["median_ms"]) == {"plain", "ddpm_cache", "first_hitting", "autoregressive"}
        assert run["speedup_over_plain"] > 0
        forwards = run["mean_forwards_a_text"]
        assert forwards["first_hitting"] == run["new_tokens"]
        assert 0 < forwards["ddpm_cache"] <= min(run["steps"], run["new_tokens"])


@pytest.mark.slow
def test_samplers_that_look_at_every_mask_write_what_the_plain_loop_writes():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks/sampling.py"), "--confidence", "--toy", "--pairs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads(done.stdout)["runs"]
    assert {(run["rule"], run["greedy"]) for run in runs} >= {("low_confidence", True), ("low_confidence", False)}
    assert all(run["same_tokens"] == 1 and run["speedup_over_plain"] > 0 for run in runs)


@pytest.mark.slow
def test_the_published_sampler_writes_what_the_plain_loop_of_its_law_writes():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks/sampling.py"), "--converted", "--toy", "--pairs", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    [run] = json.loads(done.stdout)["runs"]
    assert (run["same_tokens"], run["block_length"], run["pairs"]) == (1, 4, 2)
    assert set(run["tokens_per_second"]) == {"plain", "llada"}
    assert run["speedup_over_plain"] > 0
