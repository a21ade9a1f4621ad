"""``compare`` with trackers: each run reports to a tracker run of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_difflm.runs import load_run

ROOT = Path(__file__).parents[2]
COMPARE = """
import sys
sys.modules["deepspeed"] = None  # where it is installed accelerate imports it, and it imports wandb
from hf_difflm.commands import app
try:
    app(["compare", *sys.argv[1:]])
except SystemExit as stop:
    assert not stop.code, stop.code
print("wandb was imported:", "wandb" in sys.modules)
"""


@pytest.fixture
def compare(tiny, cache_folder):
    """``compare("--report-to", "wandb")`` in a process of its own; returns what it printed."""

    def call(*flags: str) -> str:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONPATH": str(ROOT), "HF_DATASETS_CACHE": str(cache_folder)}
        command = [sys.executable, "-c", COMPARE, *tiny, "--max-steps", "4", "--output-dir", "both", *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.mark.slow
def test_each_run_of_a_comparison_reports_to_a_wandb_run_of_its_own(compare):
    pytest.importorskip("wandb")
    assert "wandb was imported: True" in compare("--report-to", "wandb")
    ids = [load_run(f"both/{objective}").header.metadata["wandb_run_id"] for objective in ("mdlm", "ar")]
    assert len(set(ids)) == 2
    files = {path.name for path in Path("wandb").glob("offline-run-*/run-*.wandb")}
    assert files == {f"run-{run_id}.wandb" for run_id in ids}


@pytest.mark.slow
def test_wandb_is_not_imported_where_nobody_asked_for_it(compare):
    assert "wandb was imported: False" in compare()
