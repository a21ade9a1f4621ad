"""The adaptive objective on tensors without memory: as many tokens hidden as one says, whatever their importance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ...objectives import AdaptiveMaskingObjective, AdaptiveSettings, Batch, MaskedDiffusionObjective, NoiseKey
from ...objectives.adaptive.bound import AdaptiveBound
from ...objectives.adaptive.importance_values import Importance, ImportanceReader
from ...objectives.adaptive.masking import AdaptiveCorruption
from ...objectives.base import scored_mask


def first_scored(scored_BL: np.ndarray, count: int) -> np.ndarray:
    """(B, L) bool: the first ``count`` scored tokens of a batch, row by row."""
    order_M = np.cumsum(scored_BL.ravel()).reshape(scored_BL.shape)
    return scored_BL & (order_M <= count)


class SimulatedAdaptive(AdaptiveMaskingObjective):
    """Runs the same operations as the real one, without an answer of the estimator that a host could read.

    Args:
        p0: hides ``labelled`` tokens of a batch, too.
        settings: what is adaptive.
        vocab_size: V.
        networks: on tensors without memory.
        labelled: tokens of a batch to hide.
        estimate: runs the estimator on (B, L) ids and returns (B, L) importance, as fake tensors.
    """

    def __init__(
        self,
        p0: MaskedDiffusionObjective,
        settings: AdaptiveSettings,
        vocab_size: int,
        networks: nn.ModuleDict | None,
        labelled: int,
        estimate: Callable[[torch.Tensor], torch.Tensor],
    ):
        self._labelled, self._estimate = labelled, estimate
        super().__init__(p0, settings, vocab_size, networks, np.ones(vocab_size, dtype=np.int64))
        self.reader = self._simulated_reader()
        self.begin(1)

    def _simulated_reader(self) -> _SimulatedReader:
        estimator: Any = None if self.networks is None else self.networks["importance"]
        reader = _SimulatedReader(self.settings, estimator, self.counts_V)
        reader.estimate = self._estimate
        return reader

    def _bound(self, progress: float) -> AdaptiveBound:
        mask_id, reader = self.p0.mask_token_id, self._simulated_reader()
        bound = _CountedBound(mask_id, self.settings, reader, self._rate_head, progress=progress)
        bound.labelled = self._labelled
        return bound


class _SimulatedReader(ImportanceReader):
    estimate: Callable[[torch.Tensor], torch.Tensor]

    def __call__(self, model: Any, batch: Batch, device: torch.device | str) -> Importance | None:
        if self.settings.importance == "none":
            return None
        values_BL = np.full(tuple(batch["input_ids"].shape), 0.5)
        return Importance(values_BL, None if self.estimator is None else self.estimate(batch["input_ids"]))


class _CountedBound(AdaptiveBound):
    labelled: int

    def corruption(
        self, batch: Batch, key: NoiseKey, importance: Importance | None, progress: float
    ) -> AdaptiveCorruption:
        scored_BL = scored_mask(batch)
        ones_BL, half_B = np.ones(scored_BL.shape), np.full(len(scored_BL), 0.5)
        masked_BL = first_scored(scored_BL, self.labelled)
        return AdaptiveCorruption(scored_BL, masked_BL, half_B, half_B, ones_BL, ones_BL, half_B, half_B)
