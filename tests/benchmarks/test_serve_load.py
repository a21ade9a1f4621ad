"""``benchmarks/serve_load.py`` in small: real clients, some broken, some gone, and each answer that of its own request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PROGRAM = "import json; from serve_load import measured; print(json.dumps(measured(60, 8, 2, 8, 8)))"


@pytest.mark.slow
def test_nothing_is_lost_or_mixed_up_and_memory_stays(tmp_path):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT))),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["outcomes"] == {"answered": 54, "refused": 3, "cancelled": 3}
    assert result["exit_status"] == 0
    assert (result["rows_left"], result["rows_dropped"]) == (0, 3)
    assert result["memory_growth"] < 1.1
    # One after another is a batch a text; what is asked at once shares them.
    assert result["batches"] < 54 + 3 + 40
    assert result["processor_seconds_ratio_of_the_server"] > 1.1
