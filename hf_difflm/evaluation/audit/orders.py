"""The exact nll of a deterministic order of revealing, of every sequence and by every table of a module."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from ...models.masked_diffusion.generation_configuration import MaskedDiffusionGenerationConfig
from ...models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput
from ...models.masked_diffusion.noise_schedule import NoiseSchedule
from ..likelihood.exact import ExactScorer
from ..likelihood.exact_options import ExactOrder
from .tabular import TabularDenoisers, all_sequences


class ExactOrderNumber:
    """What ``eval --exact`` reports of a sequence, by the code that reports it.

    Args:
        order: in which positions are revealed, and how many at once.
        length, vocabulary: L and V.
    """

    exact = True

    def __init__(self, order: ExactOrder, length: int, vocabulary: int) -> None:
        self.order = order
        ids = torch.from_numpy(all_sequences(length, vocabulary))
        self._batch = {"input_ids": ids, "labels": ids, "index": torch.arange(len(ids))}

    def values(self, model: TabularDenoisers) -> np.ndarray:
        """(1, D, S) nats."""
        tables = (_OneTable(model, place) for place in range(model.count))
        return np.stack([ExactScorer(table, self.order, "blocks")([self._batch]).unit_nll_KU[0] for table in tables])[
            None
        ]


class _OneTable:
    """One denoiser of a module, with what the denoising loop asks of a model."""

    def __init__(self, model: TabularDenoisers, place: int) -> None:
        self._model, self._place = model, place
        self.device = torch.device("cpu")
        self.generation_config = MaskedDiffusionGenerationConfig()
        self.config = SimpleNamespace(
            mask_token_id=model.mask_token_id,
            vocab_size=model.mask_token_id + 1,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            max_position_embeddings=None,
            schedule=NoiseSchedule,
        )

    def __call__(
        self, ids_BL: torch.Tensor, attention_mask: torch.Tensor | None = None, positions: torch.Tensor | None = None
    ) -> MaskedDiffusionOutput:
        self._model.read_rows(np.full(len(ids_BL), self._place))
        return self._model(ids_BL, attention_mask, positions=positions)
