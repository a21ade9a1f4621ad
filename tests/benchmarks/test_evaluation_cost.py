"""``benchmarks/evaluation_cost.py`` at toy size: kinds of noise at equal forwards, and until the error is small enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_equal_forwards_targets_and_shared_forwards_are_told():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks/evaluation_cost.py"), "--toy", "--pairs", "2", "--steps", "5"]
    command += ["--forwards", "8", "--target-stderr", "0.05"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert len(result["noise"]) == 4
    assert {numbers["forwards"] for numbers in result["noise"].values()} == {8 * 32}
    for numbers in result["noise"].values():
        stopped = numbers["to_target"]
        assert stopped["nll_stderr"] <= 0.05
        assert stopped["nll"] == pytest.approx(numbers["nll"], abs=6 * (0.05 + numbers["nll_stderr"]))
        assert stopped["forwards"] == stopped["replicates"] * numbers["forwards"] // numbers["replicates"]
    assert result["small_set"] == {"sequences": 4, "replicates_at_once": 8}
    assert result["speedup_together"] > 0
    assert [claim["value"] > 0 for claim in result["claims"]] == [True] * 3
