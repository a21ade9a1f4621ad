"""The benchmark of tokens to quality, with a network that takes milliseconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_each_side_has_its_best_rate_and_every_budget_and_a_second_call_trains_nothing(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "tokens_to_quality.py"),
        "--toy",
        "--seeds",
        "1",
        "--max-steps",
        "12",
    ]
    command += ["--folder", str(tmp_path / "runs"), "--output", str(tmp_path / "result.json"), "--quick-choice"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("training ") == 3 * (4 + 1)  # one more to time its steps
    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["sides"]) == {"mdlm-loss", "before", "now"}
    for side in result["sides"].values():
        assert list(side["budgets"]) == ["1/4", "1/3", "1/2", "1"]
        assert all(min(one[name] for name in ("flops", "tokens", "seconds")) > 0 for one in side["budgets"].values())
    more = result["sides"]["now"]["budgets"]["1"]["flops"], result["sides"]["before"]["budgets"]["1"]["flops"]
    assert more[0] > more[1]  # Newton-Schulz is counted
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0
    assert "training " not in again.stderr
