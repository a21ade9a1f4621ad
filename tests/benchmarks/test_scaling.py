"""``benchmarks/scaling.py`` at toy size: one and two real processes do the same work in turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_one_and_two_processes_train_in_turn_and_the_ratio_is_told(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--toy", "--pairs", "1", "--steps", "4"]
    command += ["--warmup", "1", "--output", str(tmp_path / "result.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    one, two = result["median_ms_per_step"]["1"], result["median_ms_per_step"]["2"]
    assert result["speedup_of_2"] == pytest.approx(one / two, rel=1e-2)
    # The same optimiser batch, cut in two.
    assert (result["sequences_per_step"], result["accumulation"]) == (8, {"1": 2, "2": 1})
    assert all(0 < share < 1 for share in result["wait_share"].values())
    assert f"two processes are {result['speedup_of_2']:.3f} times as fast as one" in done.stdout
