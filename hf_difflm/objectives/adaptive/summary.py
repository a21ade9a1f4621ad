"""What the log says of importance: numbers that add up over the micro-batches and the ranks of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..base import Summary

_LOW, _HIGH = 3, 4  # places of the numbers that are not sums


@dataclass
class AdaptiveSummary(Summary):
    """Importance of the scored tokens, and how it goes with the difficulty of the masked ones.

    Args:
        importance_K: (K,) importance of every scored token of the micro-batch, on the host; None where there is none.
        pair_sums: (8,) on the device, see :func:`pair_sums`; None where there is no importance.
        stage: of the curriculum, 1 to 3; None without one.
        pace: of the curriculum.
    """

    importance_K: np.ndarray | None
    pair_sums: torch.Tensor | None
    stage: int | None = None
    pace: float = 1.0

    def numbers(self) -> list[float]:
        values_K = np.zeros(0) if self.importance_K is None else self.importance_K
        low, high = (values_K.min(), values_K.max()) if len(values_K) else (math.inf, -math.inf)
        pairs = [0.0] * 8 if self.pair_sums is None else self.pair_sums.tolist()
        # Stage and pace are those of the step, alike in all micro-batches: sums over their number.
        step = [0.0, 0.0, 0.0] if self.stage is None else [1.0, float(self.stage), self.pace]
        return [float(len(values_K)), values_K.sum(), (values_K**2).sum(), low, high, *pairs, *step]

    @classmethod
    def merged(cls, numbers_MX: Sequence[Sequence[float]]) -> list[float]:
        table_MX = np.asarray(numbers_MX, dtype=np.float64)
        numbers_X = table_MX.sum(0)
        numbers_X[_LOW], numbers_X[_HIGH] = table_MX[:, _LOW].min(), table_MX[:, _HIGH].max()
        return numbers_X.tolist()

    @classmethod
    def metrics(cls, numbers_X: Sequence[float]) -> dict[str, float]:
        count, total, squares, low, high, n, x, y, xx, yy, xy, error, weight, steps, stage, pace = numbers_X
        found: dict[str, float] = {}
        if count:
            mean = total / count
            std = math.sqrt(max(squares / count - mean**2, 0.0))
            found.update(importance_mean=mean, importance_std=std, importance_min=low, importance_max=high)
        if weight:
            found["importance_loss"] = error / weight
        if n:
            # Below a millionth the spread is rounding: an importance that is the same everywhere goes with nothing.
            spread_x, spread_y = xx / n - (x / n) ** 2, yy / n - (y / n) ** 2
            if min(spread_x, spread_y) > 1e-6:
                covariance = xy / n - x * y / n**2
                correlation = covariance / math.sqrt(spread_x * spread_y)
                found["importance_difficulty_correlation"] = min(max(correlation, -1.0), 1.0)
        if steps:
            found.update(curriculum_stage=stage / steps, curriculum_pace=pace / steps)
        return found


def pair_sums(
    importance_N: torch.Tensor,
    difficulty_N: torch.Tensor,
    error_N: torch.Tensor | None,
    weights_N: torch.Tensor | None,
) -> torch.Tensor:
    """(8,) detached, on the device: the sums behind a correlation and a weighted mean squared error.

    In float64 where the device has it: a variance is a small difference of large sums.

    Args:
        importance_N: (N,) importance of the masked tokens, in [0, 1].
        difficulty_N: (N,) their difficulty, in [0, 1].
        error_N: (N,) squared errors of the estimator; None without one.
        weights_N: (N,) their weights.
    """
    # Around 1/2 the sums lose fewer digits to cancellation; a correlation does not mind.
    wide = torch.float32 if importance_N.device.type == "mps" else torch.float64
    x_N, y_N = importance_N.detach().to(wide) - 0.5, difficulty_N.detach().to(wide) - 0.5
    zero = x_N.new_zeros(())
    error, weight = zero, zero
    if error_N is not None and weights_N is not None:
        weights_N = weights_N.to(wide)
        error, weight = (weights_N * error_N.detach()).sum(), weights_N.sum()
    sums = [x_N.sum(), y_N.sum(), (x_N * x_N).sum(), (y_N * y_N).sum(), (x_N * y_N).sum(), error, weight]
    return torch.stack([zero + len(x_N), *sums])
