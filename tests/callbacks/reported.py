"""What callbacks put up on the board of a training, and an own reckoning of norms by group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from hf_difflm.callbacks.reports import reports_of
from hf_difflm.runs.journal.schema import MeasurementRecord


class Reported(TrainerCallback):
    """Keep all records that are published, and the time that is left out."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.left_out: list[tuple[str, float]] = []

    def on_train_begin(self, args, state, control, **kwargs):
        reports_of(state).listen(self.records.append, lambda *what: self.left_out.append(what))

    def measurements(self, source: str) -> dict[int, MeasurementRecord]:
        """By step; a step that reports twice is an error."""
        found = [record for record in self.records if isinstance(record, MeasurementRecord) and record.source == source]
        by_step = {record.iter: record for record in found}
        assert len(by_step) == len(found)
        return by_step


def labels_of(name: str) -> list[str]:
    """Group and layer of a parameter of the tiny BERT, Llama and denoiser, from its name, with ``global``."""
    if "norm" in name.lower():
        group = "norms"
    elif any(word in name for word in ("classifier", "pooler", "lm_head")):
        group = "head"
    elif "embed" in name:
        group = "embeddings"
    elif "attn" in name or "attention" in name:
        group = "attention"
    else:
        group = "mlp"
    layer = next((f"layer_{number:02d}" for number in range(10) if f".{number}." in name), None)
    return ["global", group, *([layer] if layer else [])]


def norms_by_name(prefix: str, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Norms by label in float64, from tensors by the name of their parameter."""
    squares: dict[str, float] = {}
    for name, value in values.items():
        for label in labels_of(name):
            key = f"{prefix}/{label}"
            squares[key] = squares.get(key, 0.0) + value.double().square().sum().item()
    return {key: math.sqrt(square) for key, square in squares.items()}


def unclipped_gradients(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """A list that is filled, as the Trainer trains, with the gradients of each step as they are before clipping."""
    seen: list[dict[str, torch.Tensor]] = []
    clips = trainer.args.max_grad_norm > 0  # else the norm is taken elsewhere
    home, name = (trainer, "_clip_grad_norm") if clips else (trainer.accelerator, "clip_grad_norm_")
    clip = getattr(home, name)

    def clip_and_keep(*args: Any, **kwargs: Any) -> Any:
        named = trainer.model.named_parameters()
        seen.append({name: p.grad.detach().clone() for name, p in named if p.grad is not None})
        return clip(*args, **kwargs)

    setattr(home, name, clip_and_keep)
    return seen
