"""What training waits for: a slow data set shows in the run log."""

from __future__ import annotations

import time
from pathlib import Path

from hf_difflm.callbacks import ThroughputCallback
from hf_difflm.runs import load_run


class Slow(list):
    """Rows that take a while each."""

    def __getitem__(self, index):
        time.sleep(0.1)  # what reading costs, not a moment to wait for
        return super().__getitem__(index)


def shares(trainer, folder: Path) -> list[float]:
    """Share of the training time that went into waiting for data, by report."""
    trainer.train()
    reports = [one.metrics for one in load_run(folder).measurements if one.source == "throughput"]
    reports = [one for one in reports if "throughput/step_time_ms" in one]
    return [1e3 * one["throughput/data_wait_s"] / (2 * one["throughput/step_time_ms"]) for one in reports]


def test_a_slow_loader_shows_in_the_log(make_diffusion_trainer, train_rows, tmp_path):
    """4 rows of 0.1 s a step, against a model that takes milliseconds."""
    trainer = make_diffusion_trainer(ThroughputCallback(), train=Slow(train_rows(24)))
    found = shares(trainer, tmp_path / "run")
    assert len(found) == 3
    assert all(0.5 < share <= 1.01 for share in found[:2])  # the last batch of an epoch is there before it is asked for
