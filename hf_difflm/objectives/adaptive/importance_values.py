"""The importance of the tokens of a batch, from what the settings say it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..base import Batch, attention_mask_or_none, to_device
from .frequency_prior import frequency_importance
from .importance import ImportanceEstimator, clean_embeddings
from .odds_scaling import centred_r, log_odds
from .settings import LEARNED_SHARE, AdaptiveSettings


@dataclass
class Importance:
    """Importance of the tokens of a batch.

    Args:
        values_BL: (B, L) float64 in [0, 1] on the host, without a gradient: what masking and curriculum use.
        learned_BL: (B, L) what the estimator said, on the device, with its gradient; None without an estimator.
    """

    values_BL: np.ndarray
    learned_BL: torch.Tensor | None


class ImportanceReader:
    """Reads the importance off clean text.

    Masks are drawn on the host, so with an estimator the host waits for its answer, once a micro-batch.

    Args:
        settings: what importance is made of.
        estimator: needed where ``settings.learns``.
        counts_V: how often each token occurs in the training data; needed where ``settings.needs_counts``.

    Raises:
        ValueError: one that is needed is missing.
    """

    def __init__(
        self,
        settings: AdaptiveSettings,
        estimator: ImportanceEstimator | None = None,
        counts_V: np.ndarray | None = None,
    ):
        if settings.learns and estimator is None:
            raise ValueError(f"importance {settings.importance} needs an estimator")
        if settings.needs_counts and counts_V is None:
            raise ValueError(f"importance {settings.importance} needs the token counts of the training data")
        self.settings = settings
        self.estimator = estimator if settings.learns else None
        self.prior_V = frequency_importance(counts_V) if settings.needs_counts and counts_V is not None else None
        if self.prior_V is not None and counts_V is not None:
            # As many numbers as there are different counts: a schedule for each of 50,000 tokens takes a while.
            self._levels_U, self._level_V = np.unique(self.prior_V, return_inverse=True)
            self._mass_U = np.bincount(self._level_V, counts_V + (counts_V.sum() == 0))

    def __call__(self, model: Any, batch: Batch, device: torch.device | str) -> Importance | None:
        """The importance of each token of a batch of clean tokens; None in mode ``none``."""
        if self.settings.importance == "none":
            return None
        prior_BL = None if self.prior_V is None else self.prior_V[batch["input_ids"].numpy()]
        if self.estimator is None:
            assert prior_BL is not None
            return Importance(prior_BL, None)
        mask = attention_mask_or_none(batch)
        embeddings_BLD = clean_embeddings(model, to_device(batch["input_ids"], device))
        learned_BL = self.estimator(embeddings_BLD, None if mask is None else to_device(mask, device))
        values_BL = learned_BL.detach().cpu().double().numpy()
        if prior_BL is not None:
            values_BL = LEARNED_SHARE * values_BL + (1.0 - LEARNED_SHARE) * prior_BL
        return Importance(values_BL, learned_BL)

    def token_value_r(self, exponent: float) -> np.ndarray:
        """(V,) odds ratio of each token value by its frequency, geometric mean 1 over the tokens of the corpus.

        Raises:
            ValueError: there are no token counts.
        """
        if self.prior_V is None:
            raise ValueError("schedules by token value need the token counts of the training data")
        return centred_r(log_odds(self._levels_U, exponent)[None], self._mass_U[None])[0][self._level_V]
