"""``benchmarks/gpu_train.py`` at toy size on the CPU: its rows belong together; memory that runs out lowers the batch."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_difflm.flops.network import Architecture

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_train.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_train")


def settings(**more: Any) -> argparse.Namespace:
    plain = {"toy": True, "steps": 2, "warmup": 1, "length": 32, "attention": "sdpa", "liger": False}
    return argparse.Namespace(**plain | {"compile_mode": "default", "backend": "inductor"} | more)


@pytest.mark.slow
def test_it_runs_on_a_cpu_and_its_rates_belong_together(tmp_path):
    done = run("--device", "cpu", "--toy", "--no-compile", "--output", tmp_path / "result.json")
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert [(row["side"], row["compile"]) for row in result["rows"]] == [(s, False) for s in ("labelled", "full", "ar")]
    # The full head computes the same loss of the same weights, and needs no more FLOPs that count.
    labelled, full, _ = result["rows"]
    assert full["loss"] == pytest.approx(labelled["loss"], rel=1e-3)  # bfloat16 sums in another order
    assert full["parameters"] == labelled["parameters"]
    assert result["torch"] == torch.__version__
    for row in result["rows"]:
        tokens = row["micro_batch"] * row["length"]
        blocks = row["ms_per_step_of_blocks"]
        assert row["tokens_per_sec"] == pytest.approx(1e3 * tokens * len(blocks) / sum(blocks), rel=1e-3)
        assert min(blocks) <= row["ms_per_step"] <= max(blocks)
        assert row["scored_tokens_per_sec"] == pytest.approx(row["tokens_per_sec"] * 31 / 32, rel=1e-3)
        share = 100 * row["model_flops_per_sec"] / result["product_flops_per_sec"]
        assert row["percent_of_product"] == pytest.approx(share)
        assert row["mfu_percent"] is None  # of a CPU no peak is known


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_what_to_do():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run()
    assert done.returncode == 2
    assert "there is no GPU here; --device cpu --toy" in done.stderr


def test_the_flops_of_a_row_are_those_of_a_count_by_hand(benchmark):
    done = benchmark.train_once((32, 2, 2, 4), "ar", False, settings(), torch.device("cpu"))
    width, layers, inner, vocabulary, length, rows = 32, 2, 96, 512, 32, 4
    products = layers * (4 * width * width + 3 * width * inner) * length
    pairs = layers * 2 * width * length * (length + 1) // 2
    head = width * vocabulary * (length - 1)
    assert done["flops"] == 3 * 2 * (products + pairs + head) * rows * 2  # of two steps
    assert done["tokens"] == 2 * rows * (length - 1)


def test_memory_that_runs_out_halves_the_micro_batch_and_is_told(benchmark, monkeypatch):
    train_once = benchmark.train_once

    def small_card(size: tuple[int, ...], *more: Any) -> dict[str, Any]:
        if size[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return train_once(size, *more)

    monkeypatch.setattr(benchmark, "train_once", small_card)
    card = {"peak_flops": 1e12, "product_flops_per_sec": 1e11}
    row = benchmark.measure((32, 2, 2, 8), "mdlm", False, settings(), torch.device("cpu"), card)
    assert (row["micro_batch"], row["too_large"]) == (2, [8, 4])
    assert row["mfu_percent"] == pytest.approx(row["model_flops_per_sec"] / 1e10)


def test_a_card_on_which_nothing_fits_is_told(benchmark, monkeypatch):
    def no_room(*arguments: Any) -> dict[str, Any]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(benchmark, "train_once", no_room)
    with pytest.raises(RuntimeError, match="not even one sequence fits"):
        benchmark.measure((32, 2, 2, 8), "mdlm", True, settings(), torch.device("cpu"), {})


def test_the_claims_are_those_of_compiled_rows_that_ran(benchmark):
    def row(size: str, side: str, ms: float, percent: float | None, **more: Any) -> dict[str, Any]:
        shape = {"size": size, "side": side, "compile": True, "micro_batch": 8, "tokens_per_sec": 1e6 / ms}
        return {**shape, "ms_per_step": ms, "mfu_percent": percent, **more}

    rows = [
        row("124M", "labelled", 100.0, 41.0),
        row("124M", "full", 115.0, 35.0),
        row("350M", "labelled", 300.0, None),
        {"size": "350M", "side": "full", "compile": True, "error": "not even one sequence fits"},
        row("350M", "labelled", 900.0, 20.0, compile=False),
    ]
    made = benchmark.claims({"rows": rows, "length": 1024, "vocabulary": 50_258})
    assert [(claim.measure, round(claim.value, 3), claim.holds) for claim in made] == [
        ("labelled, % MFU", 41.0, True),
        ("full / labelled", 1.15, False),
    ]


@pytest.mark.parametrize(("name", "millions"), [("124M", 124), ("350M", 350)])
def test_the_sizes_are_called_what_they_are(benchmark, name, millions):
    from hf_difflm.experiments.memory.estimate import _Vocabulary
    from hf_difflm.experiments.memory.simulated_step import SimulatedNetwork
    from hf_difflm.models.options import ModelOptions

    width, layers, heads, _ = benchmark.SIZES[name]
    options = ModelOptions(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads)
    network = SimulatedNetwork(lambda: benchmark.build_denoiser(options, _Vocabulary(benchmark.VOCABULARY), 1024))
    assert network.num_parameters == pytest.approx(1e6 * millions, rel=0.02)
    assert Architecture.from_config(network.model.config.to_dict()) is not None
