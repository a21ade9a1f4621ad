"""``benchmarks/exact_likelihood.py`` at toy size: both sides find the same number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_loops_find_the_same_likelihood_and_the_forwards_are_one_a_token():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks/exact_likelihood.py"), "--toy", "--pairs", "1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]  # it ends with an error where they differ
    found = json.loads(done.stdout)["orders"]
    assert set(found) == {"left_to_right", "confidence"}
    assert {one["forwards"] for one in found.values()} == {4 * 32}
