"""The protocol between the Trainer, the evaluation and what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

Batch = dict[str, torch.Tensor]
"""Clean tokens on the host: ``input_ids``, ``attention_mask``, ``labels`` (-100 where a token is context), all (B, L)."""


@dataclass(frozen=True)
class NoiseKey:
    """Names the noise of each row of a batch; the same key always gives the same noise.

    Args:
        seed: seed of the run (training) or of the evaluation.
        step: optimiser step (training) or replicate (evaluation).
        places_B: (B,) place of each sequence in the optimiser batch (training) or its index in the data set (evaluation).
        size: sequences the noise is stratified over: the optimiser batch, or the data set.
        purpose: keeps training and evaluation noise apart.
    """

    seed: int
    step: int
    places_B: np.ndarray
    size: int
    purpose: str = "train"


@dataclass
class ObjectiveOutput:
    """A loss and what can be said about it.

    Args:
        loss: scalar: this batch's share of the mean over all scored tokens, in nats per token.
        rows_N: (N,) row of the batch each predicted token belongs to.
        columns_N: (N,) its position in the sequence (of the token that is predicted).
        token_nll_N: (N,) detached -log p in nats of the predicted tokens.
        token_weights_N: (N,) weights with which ``token_nll_N`` sum to the nll of their sequence (the bound).
        token_correct_N: (N,) whether the likeliest token is right; None unless asked for.
        row_metrics: (B,) host arrays about each sequence, e.g. ``noise_level`` and ``masking_rate``.
    """

    loss: torch.Tensor
    rows_N: np.ndarray
    columns_N: np.ndarray
    token_nll_N: torch.Tensor
    token_weights_N: np.ndarray
    token_correct_N: torch.Tensor | None = None
    row_metrics: dict[str, np.ndarray] = field(default_factory=dict)


class Objective(ABC):
    """What a Trainer minimises and an evaluation reports. Holds no loop and no model."""

    name: str
    bound: str
    """"nelbo" where ``eval_nll`` is an upper bound on the nll, "exact" where it is the nll."""
    stochastic: bool
    """Whether the evaluation needs several draws of noise."""

    @abstractmethod
    def __call__(
        self,
        model: Any,
        batch: Batch,
        key: NoiseKey,
        num_scored: int | torch.Tensor,
        device: torch.device | str = "cpu",
        accuracy: bool = False,
    ) -> ObjectiveOutput:
        """Corrupt on the host, run the model on ``device``, weigh the loss.

        Args:
            model: the network, perhaps wrapped (DDP, FSDP).
            batch: clean tokens on the host, see :data:`Batch`.
            key: which noise to use.
            num_scored: scored tokens of the whole optimiser batch, over all ranks; the loss is divided by it.
            device: where the model is.
            accuracy: also tell which predictions are right.
        """

    def for_evaluation(self) -> Objective:
        """The objective evaluations report: P0, however the model was trained."""
        return self


def scored_mask(batch: Batch) -> np.ndarray:
    """(B, L) bool: tokens that are scored; the others (BOS, prompts, padding) are context."""
    return (batch["labels"] != -100).numpy()


def attention_mask_or_none(batch: Batch) -> torch.Tensor | None:
    """The attention mask, or None where nothing is padding: attention kernels are faster without one."""
    mask_BL = batch.get("attention_mask")
    return None if mask_BL is None or bool(mask_BL.all()) else mask_BL


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy to the device without making the host wait for it."""
    device = torch.device(device)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
