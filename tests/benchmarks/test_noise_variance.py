"""``benchmarks/noise_variance.py``: the noise of other projects is what they say, and the whole runs at toy size."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_difflm.objectives import NoiseKey

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("noise_variance")


@pytest.mark.slow
def test_all_sides_are_measured_at_toy_size():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "benchmarks" / "noise_variance.py"), "--toy"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    header, *rows = done.stdout.splitlines()
    assert header.split()[1:] == [
        "loss_std_fresh",
        "loss_std_fixed",
        "gradient_noise_fresh",
        "gradient_noise_fixed",
        "evaluation_stderr",
    ]
    assert len(rows) == 7
    assert rows[0].count("(1.00 x)") == 5


@pytest.mark.parametrize("strata", [8, 32])
def test_bernoulli_masks_have_one_time_in_each_stratum_in_any_order(benchmark, strata):
    scored = np.ones((32, 2000), dtype=bool)
    drawn = [benchmark.BernoulliMasks(9, strata).corrupt(scored, NoiseKey(0, s, np.arange(32), 32)) for s in (0, 1)]
    for one in drawn:
        times = np.sort(1 - np.exp(-one.noise_level_B.reshape(-1, strata)), axis=-1)
        assert (times >= benchmark.SMALLEST_TIME - 1e-9).all()
        scaled = (1 - times[:, ::-1]) / (1 - benchmark.SMALLEST_TIME) * strata
        np.testing.assert_array_equal(np.floor(scaled + 1e-9), np.tile(np.arange(strata), (32 // strata, 1)))
        # The share that is hidden is the time, and its weight the rate 1 / t.
        np.testing.assert_allclose(one.masking_rate_B, 1 - np.exp(-one.noise_level_B), atol=0.06)
        np.testing.assert_allclose(one.weights_B, 1 / (1 - np.exp(-one.noise_level_B)), rtol=1e-6)
    assert (drawn[0].noise_level_B.argsort() != drawn[1].noise_level_B.argsort()).any()


def test_the_gradient_noise_is_that_of_a_model_whose_gradients_are_known(benchmark):
    """One parameter, and gradients 1 and 3 in turn: the unbiased variance over the squared mean, itself without bias."""
    import torch

    class Known(benchmark.Reader):
        def __init__(self) -> None:
            self._parameters = [torch.nn.Parameter(torch.zeros(1))]
            self.size = 4

        def loss(self, noise, rows, step, places, size):
            return self._parameters[0].sum() * (1.0 if step % 2 else 3.0)

    noise = benchmark.MaskedDiffusionObjective(9)
    gradients = np.array([3.0, 1.0] * 5)
    variance = gradients.var(ddof=1)
    expected = variance / (gradients.mean() ** 2 - variance / 10)
    assert Known().gradient_noise(noise, False, 10) == pytest.approx(expected)
