"""Memory stays the same however much of a stream has been read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "torture_stream.py"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_200_mb_cost_no_more_memory_than_50(suffix):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--gigabytes", "0.2", "--suffix", suffix],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["megabytes"] >= 200
    assert found["blocks"] * 1024 > 150e6  # a token a byte, less what is held out
    assert found["grew_mb"] < 20
