"""What an objective says of every sequence of a small alphabet: with its noise summed exactly, or from replicates.

Shapes: R replicates (1 where the sum is exact), D denoisers, S sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch

from ...errors import UserError
from ...objectives import CausalObjective, NoiseKey, Objective, ObjectiveOutput
from .masks import TIME_NODES, masks_of
from .tabular import TabularDenoisers

_ROWS_AT_ONCE = 100_000
MOST_ROWS = 1_000_000
"""Rows that one denoiser may read for one look at all sequences."""


class Number(Protocol):
    """A number of nats for every sequence, as a function of the denoiser."""

    exact: bool

    def values(self, model: Any) -> np.ndarray:
        """(R, D, S) nats of the whole sequence."""


class NoKnownMasks(Exception):
    """The objective does not draw the masks that were enumerated for it."""


class ObjectiveNumber:
    """The sum of what an objective says of the tokens of a sequence, each times its weight; and what training minimises.

    Args:
        objective: run as it is, on rows of L scored tokens (after one token of context, for a causal one).
        sequences_SL: (S, L) what is asked about, in the order of :func:`~.tabular.all_sequences` where all are.
        replicates: R draws of noise; 0: every mask, where the objective's noise is known.
        seed: of the replicates.
        purpose: of the replicates: ``train`` or ``eval``.
        nodes: of the quadrature over time.

    Raises:
        NoKnownMasks: it has noise of another kind, and no replicates were asked for.
        UserError: too many rows.
    """

    def __init__(
        self,
        objective: Objective,
        sequences_SL: np.ndarray,
        replicates: int = 0,
        seed: int = 0,
        purpose: str = "eval",
        nodes: int = TIME_NODES,
    ) -> None:
        self.objective = objective
        self.sequences_SL = sequences_SL
        self.seed, self.purpose = seed, purpose
        self.masks = masks_of(objective, self.sequences_SL, nodes) if replicates == 0 else None
        if replicates == 0 and self.masks is None:
            raise NoKnownMasks(type(objective).__name__)
        self.exact = self.masks is not None
        size = len(self.sequences_SL)
        self.cases = len(self.masks.u_C) if self.masks is not None else replicates
        self.chance_SC = np.broadcast_to(
            self.masks.chance_SC if self.masks is not None else np.full((1, 1), 1 / replicates), (size, self.cases)
        )
        self._start = 0 if isinstance(objective, CausalObjective) else None  # tables read no start token
        if size * self.cases > MOST_ROWS:
            raise UserError(
                f"{size:,} sequences under {self.cases:,} masks each are more than {MOST_ROWS:,} rows; give a smaller "
                f"--vocabulary, --length{'' if self.exact else ' or --replicates'}"
            )

    def values(self, model: TabularDenoisers) -> np.ndarray:
        """(R, D, S) nats; R = 1 where the noise is summed exactly."""
        found = []
        with torch.no_grad():
            for _, output in self._outputs(model, None):
                nll_N = output.token_nll_N.double().numpy()
                rows = self._rows_of(output, output.token_weights_N * nll_N)
                found.append(rows.reshape(-1, *self.chance_SC.shape))
        costs_DSC = np.concatenate(found)
        if self.exact:
            return (costs_DSC * self.chance_SC).sum(-1)[None]
        return costs_DSC.transpose(2, 0, 1)

    def loss_gap(self, model: TabularDenoisers) -> float:
        """How far the loss is from the number, summed over all rows: 0 where the objective weighs what it minimises."""
        with torch.no_grad():
            found = [
                (float(loss), float(output.token_weights_N @ output.token_nll_N.double().numpy()))
                for loss, output in self._outputs(model, None)
            ]
        losses, numbers = (sum(values) for values in zip(*found, strict=True))
        return abs(losses / numbers - 1) if numbers else abs(losses)

    def backward(self, model: TabularDenoisers, sources_DS: np.ndarray) -> None:
        """Add to the gradients those of each denoiser's training loss, a mean over the sequences of its source.

        Args:
            model: the denoisers.
            sources_DS: (D, S) probabilities.

        Raises:
            UserError: the loss does not depend on what the model predicts.
        """
        for loss, _ in self._outputs(model, sources_DS):
            if not loss.requires_grad:
                raise UserError(
                    f"the loss of {type(self.objective).__name__} has no gradient, so there is nothing to train; compute it "
                    "from the model's outputs, without detaching them"
                )
            loss.backward()

    def _outputs(
        self, model: TabularDenoisers, sources_DS: np.ndarray | None
    ) -> Iterator[tuple[torch.Tensor, ObjectiveOutput]]:
        """Yield loss and output of some denoisers at a time, rows in the order (d, s, c)."""
        size, cases = self.chance_SC.shape
        at_once = max(1, _ROWS_AT_ONCE // (size * cases))
        ids_SL = self.sequences_SL.repeat(cases, axis=0)
        for first in range(0, model.count, at_once):
            some = np.arange(first, min(first + at_once, model.count))
            weights_B = None
            if sources_DS is not None:
                weights_B = (sources_DS[some][..., None] * self.chance_SC).ravel()
            model.read_rows(some.repeat(size * cases), weights_B)
            ids = torch.from_numpy(np.tile(ids_SL, (len(some), 1)))
            batch = {"input_ids": ids, "labels": ids}
            if self._start is not None:
                batch = {
                    "input_ids": torch.nn.functional.pad(ids, (1, 0), value=self._start),
                    "labels": torch.nn.functional.pad(ids, (1, 0), value=-100),
                }
            output = self.objective(model, batch, self._key(len(some)), 1)
            self._check(output, len(some))
            yield output.loss, output

    def _key(self, count: int) -> NoiseKey:
        size, cases = self.chance_SC.shape
        if self.masks is not None:
            return self.masks.key(count * size)
        places_B = np.tile(np.arange(size).repeat(cases), count)
        return NoiseKey(self.seed, np.tile(np.arange(cases), count * size), places_B, size, self.purpose)

    def _rows_of(self, output: ObjectiveOutput, costs_N: np.ndarray) -> np.ndarray:
        """(B,) sums over the tokens of each row."""
        rows = self.chance_SC.size * self._denoisers
        return np.bincount(output.rows_N, costs_N, minlength=rows)

    def _check(self, output: ObjectiveOutput, count: int) -> None:
        """Raises NoKnownMasks where other tokens are hidden than were meant to be."""
        self._denoisers = count
        if self.masks is None or not self.objective.stochastic:
            return
        meant_BL = np.tile(self.masks.masked_CL, (count * len(self.sequences_SL), 1))
        hidden_BL, is_first_N = np.zeros_like(meant_BL), output.reads_N % output.reads == 0
        hidden_BL[output.rows_N[is_first_N], output.columns_N[is_first_N]] = True
        if not np.array_equal(hidden_BL, meant_BL):
            raise NoKnownMasks(type(self.objective).__name__)
