"""The protocol between the Trainer, the evaluation and what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from ..errors import UserError

Batch = dict[str, torch.Tensor]
"""Clean tokens on the host: ``input_ids``, ``attention_mask``, ``labels`` (-100 where a token is context), all (B, L)."""


@dataclass(frozen=True)
class NoiseKey:
    """Names the noise of each row of a batch; the same key always gives the same noise.

    Args:
        seed: seed of the run (training) or of the evaluation.
        step: optimiser step (training) or replicate (evaluation); (B,) where the rows belong to several replicates.
        places_B: (B,) place of each sequence in the optimiser batch (training) or its index in the data set (evaluation).
        size: sequences the noise is stratified over: the optimiser batch, or the data set.
        purpose: keeps training and evaluation noise apart.
        numbers_B: (B,) what the numbers of each row alone hang on, where that is not its place: of documents that share
            rows, their number in the data.
    """

    seed: int
    step: int | np.ndarray
    places_B: np.ndarray
    size: int
    purpose: str = "train"
    numbers_B: np.ndarray | None = None

    @property
    def row_steps(self) -> np.ndarray:
        """(B,) step of each row."""
        return np.broadcast_to(self.step, np.shape(self.places_B))


class Summary(ABC):
    """What is to be logged of the tokens of a micro-batch, as numbers that merge over a step's micro-batches and ranks."""

    @abstractmethod
    def numbers(self) -> list[float]:
        """The numbers, always as many; waits for the device, so it is for logging steps."""

    @classmethod
    @abstractmethod
    def merged(cls, numbers_MX: Sequence[Sequence[float]]) -> list[float]:
        """One list of numbers from those of several micro-batches or ranks."""

    @classmethod
    @abstractmethod
    def metrics(cls, numbers_X: Sequence[float]) -> dict[str, float]:
        """What the log says, by name; what is unknown is left out."""


@dataclass
class ObjectiveOutput:
    """A loss and what can be said about it.

    Args:
        loss: scalar: this batch's share of the mean over all scored tokens, in nats per token.
        rows_N: (N,) row of the batch each predicted token belongs to, ascending.
        columns_N: (N,) its position in the sequence (of the token that is predicted).
        token_nll_N: (N,) detached -log p in nats of the predicted tokens.
        token_weights_N: (N,) weights with which ``token_nll_N`` sum to the nll of their sequence (the bound).
        token_correct_N: (N,) whether the likeliest token is right; None unless asked for.
        row_metrics: (B,) host arrays about each sequence, e.g. ``noise_level`` and ``masking_rate``; (reads·B,) where each
            sequence is read several times, its readings being neighbours.
        summary: what else is to be logged of the step; None where there is nothing.
        reads: how many times the model read each sequence, each time with other tokens hidden.
        reads_N: (N,) which of the reads·B rows each predicted token was hidden in: what ``row_metrics`` are indexed by, and
            ``rows_N`` times ``reads`` up to the reading. ``rows_N`` itself where nothing is read twice; of block diffusion
            the blocks, which ``row_metrics`` are of.
        draw_weights_R: (reads·B,) the weight of each reading as a draw, 1 on average, where some are drawn more often than
            under uniform noise: a part of ``token_weights_N``, and what means over predicted tokens take; None: all are 1.
    """

    loss: torch.Tensor
    rows_N: np.ndarray
    columns_N: np.ndarray
    token_nll_N: torch.Tensor
    token_weights_N: np.ndarray
    token_correct_N: torch.Tensor | None = None
    row_metrics: dict[str, np.ndarray] = field(default_factory=dict)
    summary: Summary | None = None
    reads: int = 1
    reads_N: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    draw_weights_R: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.reads == 1 and not len(self.reads_N):
            self.reads_N = self.rows_N


class Objective(ABC):
    """What a Trainer minimises and an evaluation reports. Holds no loop and no model."""

    name: str
    bound: str
    """"nelbo" where ``eval_nll`` is an upper bound on the nll, "exact" where it is the nll."""
    stochastic: bool
    """Whether the evaluation needs several draws of noise."""
    train_objective: str | None = None
    """What training minimises, where that is not what ``for_evaluation`` reports."""
    reads_rows: bool = False
    """Whether it takes batches whose rows hold several documents; others get each document as a row of its own."""
    networks: nn.ModuleDict | None = None
    """Networks that are trained beside the model; None where there are none. The Trainer moves them to the device, optimises
    them in groups of their own, clips them apart from the model, and adds up their gradients over ranks."""

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

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> Objective:
        """The objective evaluations report: P0, however the model was trained.

        Args:
            pairs: each draw reads a sequence under a mask and under its complement, where there are masks.
            replicates: independent draws over the whole set, at least.
        """
        return self

    def native(self, step: int) -> Objective | None:
        """The bound that training minimises after ``step`` steps, for an evaluation.

        None where it is the reported one, or where how far ``step`` is on the way is not known (see ``begin``).
        """
        return None

    def transition(self, step: int) -> str | None:
        """What begins with optimiser step ``step``, the first being 0, in words; None where nothing does."""
        return None

    def begin(self, total_steps: int) -> None:  # noqa: B027 - most objectives do not change as training goes on
        """Training is about to start or to be resumed, and will have this many optimiser steps in all."""

    def after_step(self, step: int) -> None:  # noqa: B027 - most objectives need not know
        """Optimiser step ``step``, counted from 1, is done, on every process."""

    def save(self, folder: Path) -> None:  # noqa: B027 - most objectives learn nothing themselves
        """Write what the objective itself has learned into a folder that holds a model."""

    def load(self, folder: Path) -> None:  # noqa: B027
        """Read back what ``save`` wrote."""


def scored_mask(batch: Batch) -> np.ndarray:
    """(B, L) bool: tokens that are scored; the others (BOS, prompts, padding) are context."""
    return (batch["labels"] != -100).numpy()


def refuse_corrupted(batch: Batch) -> None:
    """Raise UserError where tokens that are scored are not those that are read: a collator has masked or shifted them."""
    labels_BL = batch["labels"]
    other = int(((labels_BL != -100) & (labels_BL != batch["input_ids"])).sum())
    if other:
        raise UserError(
            f"{other} labels of a batch are other tokens than its input_ids: its collator masks or shifts them, which the "
            "objective does by itself; leave data_collator out, or give labels that are the input_ids or -100"
        )


def attention_mask_or_none(batch: Batch) -> torch.Tensor | None:
    """The attention mask, or None where nothing is padding: attention kernels are faster without one."""
    mask_BL = batch.get("attention_mask")
    return None if mask_BL is None or bool(mask_BL.all()) else mask_BL


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy to the device without making the host wait for it."""
    device = torch.device(device)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def unwrapped(model: Any) -> Any:
    """The network in its wrappers (DDP, FSDP, torch.compile), of which there need not be any."""
    if hasattr(model, "get_input_embeddings") or not isinstance(
        model, nn.Module
    ):  # else there is no need to look for wrappers, and to import theirs
        return model
    return extract_model_from_parallel(model, keep_torch_compile=False)
