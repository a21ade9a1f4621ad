"""Denoisers without rounding: rows computed together give the same bits as rows computed alone."""

from __future__ import annotations

import types
from collections.abc import Callable

import torch

from hf_difflm.models.masked_diffusion.generation_masked_diffusion import (
    MaskedDiffusionGenerationConfig,
    MaskedDiffusionGenerationMixin,
)
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule


class ExactModel(MaskedDiffusionGenerationMixin):
    """Base: what ``generate`` needs of a model; counts its forwards and the positions asked for."""

    generation_config_class = MaskedDiffusionGenerationConfig

    def __init__(self, vocabulary: int, limit: int | None = None) -> None:
        self.vocabulary = vocabulary  # the mask comes after it
        self.generation_config = MaskedDiffusionGenerationConfig()
        self.device = torch.device("cpu")
        self.config = types.SimpleNamespace(
            mask_token_id=vocabulary,
            vocab_size=vocabulary + 1,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            max_position_embeddings=limit,
            schedule=NoiseSchedule,
        )
        self.forwards, self.asked, self.widest = 0, 0, 0
        self.watch: Callable[[torch.Tensor, torch.Tensor], object] = lambda ids_BL, positions: None

    def __call__(self, ids_BL, attention_mask=None, positions=None):
        self.forwards += 1
        self.watch(ids_BL, positions)
        self.asked += len(positions)
        self.widest = max(self.widest, ids_BL.shape[1])
        row_N, column_N = positions // ids_BL.shape[1], positions % ids_BL.shape[1]
        logits_NV = self.log_probabilities(
            ids_BL[row_N], column_N, None if attention_mask is None else attention_mask[row_N]
        )
        mask_N1 = torch.full((len(positions), 1), float("-inf"), dtype=torch.float64)
        return types.SimpleNamespace(logits=torch.cat([logits_NV, mask_N1], dim=-1))

    def log_probabilities(self, ids_NL, column_N, attention_NL):
        raise NotImplementedError


class TableModel(ExactModel):
    """Looks up (V + 1, ..., V + 1, L, V) log-probabilities: the exact denoiser of a joint distribution."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__(scores.shape[-1])
        self.scores = scores.detach()

    def log_probabilities(self, ids_NL, column_N, attention_NL):
        return self.scores[(*ids_NL.T, column_N)]


class NeighbourModel(ExactModel):
    """Adds up what each token says of the places around it: depends on all of the context, and on nothing else."""

    def __init__(self, vocabulary: int = 9, seed: int = 0, limit: int | None = None, sharpness: float = 1.0) -> None:
        super().__init__(vocabulary, limit)
        table = torch.randn(41, vocabulary + 1, vocabulary, generator=torch.Generator().manual_seed(seed))
        self.table = sharpness * table.double()

    def log_probabilities(self, ids_NL, column_N, attention_NL):
        distance_NL = (torch.arange(ids_NL.shape[1])[None] - column_N[:, None]).clamp(-20, 20) + 20
        said_NLV = self.table[distance_NL, ids_NL]
        if attention_NL is not None:
            said_NLV = said_NLV * attention_NL[..., None]
        logits_NV = torch.zeros(len(ids_NL), self.vocabulary, dtype=torch.float64)
        # From the position outwards, so that padding adds zeros and does not change the order of the sum.
        for column in range(ids_NL.shape[1]):
            logits_NV = logits_NV + said_NLV[:, column]
        return logits_NV
