"""Collects what happens between two logging steps, on the device, and fetches it in one transfer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from ...objectives import ObjectiveOutput, Summary
from ...objectives.base import to_device


@dataclass
class _Step:
    """One optimiser step: numbers the device still has, and numbers the host knows."""

    loss: torch.Tensor
    aux_loss: torch.Tensor | None
    grad_norm: torch.Tensor | float
    learning_rate: float
    time_ms: float
    tokens: int
    row_metrics: dict[str, np.ndarray]
    correct: torch.Tensor | None
    predicted: float
    flops: float | None
    epoch: float | None
    summaries: list[Summary]
    adamw_learning_rate: float | None


@dataclass
class MetricsWindow:
    """The steps since the last logging step.

    ``add_micro_batch`` and ``close_step`` only keep references; ``fetch`` is the one place that waits for the device.
    """

    _steps: list[tuple[int, _Step]] = field(default_factory=list)
    _losses: list[torch.Tensor] = field(default_factory=list)
    _aux_losses: list[torch.Tensor] = field(default_factory=list)
    _outputs: list[tuple[dict[str, np.ndarray], torch.Tensor | None, float]] = field(default_factory=list)
    _summaries: list[Summary] = field(default_factory=list)
    _tokens: int = 0
    _flops: float | None = None
    _mark: float = field(default_factory=time.perf_counter)

    def restart_clock(self) -> None:
        """Leave out of the step times what has passed since the last step (evaluation, saving)."""
        self._mark = time.perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Leave out of the time of the next step what was not training."""
        self._mark += seconds

    def add_micro_batch(self, output: ObjectiveOutput, tokens: int, flops: float | None = None) -> None:
        """Note the metrics of one forward pass; ``flops`` are the model FLOPs of it and its backward pass."""
        correct, predicted = output.token_correct_N, float(len(output.rows_N))
        if correct is not None and output.draw_weights_R is not None:  # as if all were drawn alike
            drawn_N = output.draw_weights_R[output.reads_N]
            correct, predicted = correct * to_device(torch.from_numpy(drawn_N).float(), correct.device), drawn_N.sum()
        self._outputs.append((output.row_metrics, None if correct is None else correct.sum(), predicted))
        if output.summary is not None:
            self._summaries.append(output.summary)
        self._tokens += tokens
        if flops is not None:
            self._flops = (self._flops or 0.0) + flops

    def add_loss(self, loss: torch.Tensor) -> None:
        """Note this micro-batch's share of the loss of its step; detached, on the device."""
        self._losses.append(loss)

    def add_aux_loss(self, loss: torch.Tensor) -> None:
        """Note this micro-batch's share of the router loss of its step; detached, on the device."""
        self._aux_losses.append(loss)

    def close_step(
        self,
        step: int,
        grad_norm: torch.Tensor | float | None,
        learning_rate: float,
        epoch: float | None = None,
        adamw_learning_rate: float | None = None,
    ) -> None:
        """An optimiser step is done; ``step`` counts from 1, ``epoch`` is how many passes over the data that makes."""
        now = time.perf_counter()
        names = self._outputs[0][0] if self._outputs else {}
        correct = [c for _, c, _ in self._outputs if c is not None]
        self._steps.append(
            (
                step,
                _Step(
                    loss=torch.stack(self._losses).sum(),
                    aux_loss=torch.stack(self._aux_losses).sum() if self._aux_losses else None,
                    grad_norm=math.nan if grad_norm is None else grad_norm,
                    learning_rate=learning_rate,
                    time_ms=1e3 * (now - self._mark),
                    tokens=self._tokens,
                    row_metrics={n: np.concatenate([rows[n] for rows, _, _ in self._outputs]) for n in names},
                    correct=torch.stack(correct).sum() if correct else None,
                    predicted=sum(n for _, _, n in self._outputs),
                    flops=self._flops,
                    epoch=epoch,
                    summaries=self._summaries,
                    adamw_learning_rate=adamw_learning_rate,
                ),
            )
        )
        self._mark = now
        self._losses, self._aux_losses, self._outputs, self._summaries = [], [], [], []
        self._tokens, self._flops = 0, None

    def has_open_step(self) -> bool:
        """Whether something was added since the last ``close_step``."""
        return bool(self._losses)

    def __bool__(self) -> bool:
        return bool(self._steps)

    def fetch(
        self, gather: Callable[[torch.Tensor], torch.Tensor], device: torch.device, world_size: int
    ) -> list[dict[str, Any]]:
        """Empty the window and return one row a step, averaged over ranks.

        One device-to-host transfer, and one more for each micro-batch of which the objective has more to say.

        Args:
            gather: (1, n) on each rank to (ranks, n).
            device: where the losses are.
            world_size: number of ranks.
        """
        steps, self._steps = self._steps, []
        zero = torch.zeros((), device=device)
        on_device = [
            zero if x is None else x for _, s in steps for x in (s.loss, _whole(s.grad_norm), s.correct, s.aux_loss)
        ]
        device_values = torch.stack([torch.as_tensor(x, dtype=torch.float32, device=device) for x in on_device])
        on_host = [x for _, s in steps for x in _host_numbers(s)]
        if world_size > 1:
            # Sums of many squares, of which variances are made, need more digits than float32 has.
            both = torch.cat([device_values.double(), torch.tensor(on_host, dtype=torch.float64, device=device)])
            values_RX = np.array(gather(both.unsqueeze(0)).tolist())
        else:
            values_RX = np.array([device_values.tolist() + on_host])
        device_RS4 = values_RX[:, : len(on_device)].reshape(len(values_RX), len(steps), 4)
        host_RSX = values_RX[:, len(on_device) :].reshape(len(values_RX), len(steps), -1)
        rows = [_row(step, s, device_RS4[:, i], host_RSX[:, i]) for i, (step, s) in enumerate(steps)]
        if device.type != "cpu" and rows:
            # Kernels run behind the host's back: only the mean over the window is a real time.
            mean_ms = sum(row["time_ms"] for row in rows) / len(rows)
            for row in rows:
                row["tokens_per_sec"] *= row["time_ms"] / mean_ms
                row["time_ms"] = mean_ms
        return rows


def _whole(norm: torch.Tensor | float) -> torch.Tensor | float:
    """FSDP2 leaves each process its share of the gradient norm; every process must ask for the whole."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _host_numbers(step: _Step) -> list[float]:
    numbers = [float(step.tokens), step.predicted, step.flops or 0.0]
    for values_B in step.row_metrics.values():
        numbers += [values_B.sum(), values_B.min(), values_B.max(), len(values_B)]
    if step.summaries:
        numbers += step.summaries[0].merged([summary.numbers() for summary in step.summaries])
    return numbers


def _row(number: int, step: _Step, device_R4: np.ndarray, host_RX: np.ndarray) -> dict[str, Any]:
    """One row of the run log, from what all ranks say about the step."""
    tokens, predicted = host_RX[:, 0].sum(), host_RX[:, 1].sum()
    grad_norm = float(device_R4[0, 1])
    row: dict[str, Any] = {
        "iter": number,
        "loss": float(device_R4[:, 0].mean()),
        "grad_norm": grad_norm,
        "lr": step.learning_rate,
        "time_ms": step.time_ms,
        "tokens": int(tokens),
        "tokens_per_sec": tokens / max(step.time_ms, 1e-6) * 1e3,
        "accuracy": float(device_R4[:, 2].sum() / predicted) if step.correct is not None and predicted else None,
    }
    if step.aux_loss is not None:
        row["aux_loss"] = float(device_R4[:, 3].mean())
    if step.adamw_learning_rate is not None:
        row["adamw_learning_rate"] = step.adamw_learning_rate
    if step.flops is not None:
        row["flops"] = float(host_RX[:, 2].sum())
    if step.epoch is not None:
        row["epoch"] = step.epoch
    for i, name in enumerate(step.row_metrics):
        sums_R, mins_R, maxs_R, counts_R = host_RX[:, 3 + 4 * i : 7 + 4 * i].T
        row[name] = sums_R.sum() / counts_R.sum()
        row[f"{name}_min"], row[f"{name}_max"] = mins_R.min(), maxs_R.max()
    if step.summaries:
        summary = step.summaries[0]
        row.update(summary.metrics(summary.merged(host_RX[:, 3 + 4 * len(step.row_metrics) :].tolist())))
    return {name: float(value) if isinstance(value, np.floating) else value for name, value in row.items()}
