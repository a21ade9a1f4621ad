"""The benchmark of packing runs at toy size and measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_toy_size():
    command = [sys.executable, "benchmarks/packing.py", "--toy", "--pairs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout[done.stdout.index("{") :])
    assert found["steps"].keys() == {"mdlm", "ar", "bd3lm"}
    assert 0 < found["padding_share"] < 0.02
