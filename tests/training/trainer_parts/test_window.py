"""What is collected between two logging steps comes out as one row a step, the same for any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_difflm.objectives import ObjectiveOutput
from hf_difflm.training.trainer_parts.window import MetricsWindow


def output(correct: list[bool] | None, levels: list[float]) -> ObjectiveOutput:
    size = 2 if correct is None else len(correct)
    return ObjectiveOutput(
        loss=torch.tensor(0.0),
        rows_N=np.zeros(size, dtype=int),
        columns_N=np.arange(size),
        token_nll_N=torch.ones(size),
        token_weights_N=np.ones(size),
        token_correct_N=None if correct is None else torch.tensor(correct),
        row_metrics={"noise_level": np.array(levels)},
    )


def fill(window: MetricsWindow, step: int, parts, loss: float, norm: float = 1.0) -> None:
    for correct, levels in parts:
        window.add_micro_batch(output(correct, levels), tokens=5)
        window.add_loss(torch.tensor(loss / len(parts)))
    window.close_step(step, torch.tensor(norm), 1e-3)


def alone(values: torch.Tensor) -> torch.Tensor:
    return values


def test_a_row_a_step_with_sums_over_micro_batches():
    window = MetricsWindow()
    fill(window, 1, [(None, [0.5, 0.7]), (None, [0.1])], loss=3.0, norm=7.0)
    fill(window, 2, [([True, False, True], [1.0]), ([False], [2.0])], loss=2.0)
    first, second = window.fetch(alone, torch.device("cpu"), 1)
    assert (first["iter"], first["loss"], first["grad_norm"], first["lr"], first["tokens"]) == (1, 3.0, 7.0, 1e-3, 10)
    assert first["accuracy"] is None
    assert second["accuracy"] == 0.5
    assert first["noise_level"] == pytest.approx(1.3 / 3)
    assert (first["noise_level_min"], first["noise_level_max"]) == (0.1, 0.7)
    assert first["tokens_per_sec"] == pytest.approx(10 / first["time_ms"] * 1e3)


def test_fetching_empties_it():
    window = MetricsWindow()
    assert not window
    fill(window, 1, [(None, [0.5])], 1.0)
    assert window
    assert not window.has_open_step()
    window.fetch(alone, torch.device("cpu"), 1)
    assert not window


def test_ranks_are_summed_where_they_share_and_averaged_where_they_repeat():
    """Two ranks, each with half of the sequences: what one rank says of all of them."""
    halves = [[([True, True], [0.2]), ([False], [0.4])], [([False, False, True], [0.6]), ([True], [1.0])]]
    both = MetricsWindow()
    fill(both, 1, halves[0] + halves[1], loss=3.0)
    (expected,) = both.fetch(alone, torch.device("cpu"), 1)
    sent: list[torch.Tensor] = []
    for half in halves:  # each rank's loss is its share times the number of ranks
        window = MetricsWindow()
        fill(window, 1, half, loss=3.0)
        window.fetch(lambda values: (sent.append(values), values)[1], torch.device("cpu"), 2)
    window = MetricsWindow()
    fill(window, 1, halves[0], loss=3.0)
    (row,) = window.fetch(lambda values: torch.cat(sent), torch.device("cpu"), 2)
    assert row.keys() == expected.keys()
    for name in row.keys() - {"time_ms", "tokens_per_sec"}:
        assert row[name] == pytest.approx(expected[name], rel=1e-6), name


def test_what_is_not_finite_stays_visible():
    window = MetricsWindow()
    fill(window, 1, [(None, [0.5])], loss=math.nan, norm=math.inf)
    (row,) = window.fetch(alone, torch.device("cpu"), 1)
    assert math.isnan(row["loss"])
    assert row["grad_norm"] == math.inf


def test_time_outside_of_training_is_left_out(monkeypatch):
    now = iter([0.0, 1.0, 100.0, 102.0]).__next__
    monkeypatch.setattr("hf_difflm.training.trainer_parts.window.time.perf_counter", now)
    window = MetricsWindow(_mark=now())
    fill(window, 1, [(None, [0.5])], 1.0)
    window.restart_clock()
    fill(window, 2, [(None, [0.5])], 1.0)
    assert [row["time_ms"] for row in window.fetch(alone, torch.device("cpu"), 1)] == [1000.0, 2000.0]
