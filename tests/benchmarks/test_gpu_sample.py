"""``benchmarks/gpu_sample.py`` at toy size on the CPU: all sides in turn, compiled and not; rates belong together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_sample.py"
SIDES = {"plain", "ddpm_cache", "first_hitting", "autoregressive"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
@pytest.mark.parametrize("more", [("--no-compile",), ("--backend", "eager")], ids=["plain", "static"])
def test_all_sides_generate_in_turn_and_the_rates_belong_together(more, tmp_path):
    done = run("--device", "cpu", "--toy", "--pairs", "1", *more, "--output", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "result.json").read_text())
    (row,) = result["rows"]
    assert set(row["median_ms"]) == set(row["tokens_per_sec"]) == SIDES
    for side, rate in row["tokens_per_sec"].items():
        assert rate == pytest.approx(1e3 * row["texts"] * row["new_tokens"] / row["median_ms"][side], rel=1e-3)
    assert row["plain_over_ddpm_cache"] == pytest.approx(
        row["median_ms"]["plain"] / row["median_ms"]["ddpm_cache"], rel=1e-2
    )
    # With static shapes a row is forwarded wherever any row changes, without only where it does itself.
    of_a_text, computed = row["mean_forwards_a_text"], row["mean_forwards_computed"]
    assert of_a_text["first_hitting"] == row["new_tokens"]
    assert of_a_text["ddpm_cache"] <= computed["ddpm_cache"] <= row["steps"] == computed["plain"]
    assert row["compile"] or of_a_text == computed
    width, layers, inner, length = 32, 2, 96, row["new_tokens"] + 1
    weights = layers * (4 * width * width + 3 * width * inner + 2 * width)
    flops = 2 * row["texts"] * length * (weights + 2 * layers * width * length) * row["steps"]
    assert row["model_flops_per_sec_of_layers"]["plain"] == pytest.approx(1e3 * flops / row["median_ms"]["plain"])
    (claim,) = result["claims"]
    assert claim["holds"] is (claim["value"] > 1)


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run()
    assert done.returncode == 2
    assert "there is no GPU here; --device cpu --toy" in done.stderr
