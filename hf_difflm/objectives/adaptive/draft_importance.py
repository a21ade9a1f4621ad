"""The learned importance of a text that is still being written, for the uncertainty sampler."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...errors import UserError
from .importance_values import ImportanceReader

_LEAST = 1e-6  # of an importance, so that a place cannot lose its order


class DraftImportance:
    """The ``importance`` argument of ``generate``: what the estimator says of a draft, to a power.

    The clean text is unknown while it is written, so the estimator reads the draft that ``generate`` makes: each mask that
    may be revealed now is replaced by its likeliest token. What still is a mask there is padding, or comes later: it is not
    read, so a row's importance does not depend on the rows beside it.

    Args:
        reader: from :func:`~hf_difflm.objectives.load_importance`.
        model: the denoiser whose embeddings it reads.
        weight: power of the importance: 0 is no importance, 1 the importance as it is, more sets important tokens further
            apart from others.

    Raises:
        UserError: a negative weight, or a reader that has no importance.
    """

    def __init__(self, reader: ImportanceReader, model: Any, weight: float = 1.0) -> None:
        if not 0 <= weight < math.inf:
            raise UserError(f"importance_weight must be at least 0, got {weight}")
        if reader.settings.importance == "none":
            raise UserError("the run was trained with importance none, so there is none to weigh tokens with")
        self.reader, self.model, self.weight = reader, model, weight

    @torch.no_grad()
    def __call__(self, draft_RL: torch.Tensor) -> torch.Tensor:
        """(R, L) float64 weights of the positions of a (R, L) draft, on the host."""
        draft_RL = draft_RL.cpu()
        readable_RL = draft_RL != self.model.config.mask_token_id
        batch = {"input_ids": draft_RL, "attention_mask": readable_RL.long()}
        importance = self.reader(self.model, batch, self.model.device)
        assert importance is not None
        return torch.from_numpy(importance.values_BL).clamp(min=_LEAST) ** self.weight
