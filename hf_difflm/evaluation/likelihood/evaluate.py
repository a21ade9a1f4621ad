"""Likelihood of a held-out set, with the two errors it has.

``nll`` is the mean over scored tokens (never a mean of batch means). For a bound estimated by Monte Carlo the whole set is
scored in K replicates, each with its own noise (a function of seed, replicate and the sequence's index in the data set), so
the spread of the K means gives ``nll_stderr``: how far this number is from the one that infinitely many draws would give.
``nll_data_stderr`` is the other error, over documents: how far it is from the one that more text would give. K is given, or
grows until ``nll_stderr`` is small enough (:class:`~hf_difflm.evaluation.likelihood.draws.Draws`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...objectives import Batch, Objective
from .draws import MOST_REPLICATES, Draws
from .standard_errors import standard_error_of_data, standard_error_of_draws
from .sums import NOISE_BINS, LikelihoodSums, merge, score

Progress = Callable[[Iterable[Batch], str], Iterable[Batch]]
"""Shows how far a pass over the batches is; the second argument says in words which pass."""


@dataclass
class LikelihoodResult:
    """What :func:`evaluate_likelihood` found. All rates are in nats per scored token.

    Args:
        nll: mean over scored tokens and replicates.
        nll_stderr: Monte-Carlo standard error of ``nll`` (0 where nothing is drawn, None with one replicate).
        nll_data_stderr: standard error over documents (over blocks where all text is one document); None with fewer than 2.
        data_unit: "documents" or "blocks".
        bound: "nelbo" or "exact".
        scored_tokens: tokens scored, once a replicate.
        num_bytes: UTF-8 bytes those tokens stand for, or None where unknown.
        accuracy: share of predicted tokens whose likeliest token is right.
        accuracy_by_noise: (NOISE_BINS,) the same by masking rate, NaN where a bin is empty; None for exact bounds.
        nll_by_noise: (NOISE_BINS,) mean cross-entropy of the masked tokens by masking rate, likewise; its bins do not average
            to ``nll``, in which each masking rate has the weight of the bound.
        replicates: K.
        forwards: sequences that went through the model, over all ranks.
        unit_ids, unit_tokens, unit_nll: per document (or block): its id, scored tokens, nll in nats, for paired comparisons.
    """

    nll: float
    nll_stderr: float | None
    nll_data_stderr: float | None
    data_unit: str
    bound: str
    scored_tokens: int
    num_bytes: int | None
    accuracy: float
    accuracy_by_noise: np.ndarray | None
    nll_by_noise: np.ndarray | None
    replicates: int
    forwards: int
    unit_ids: np.ndarray
    unit_tokens: np.ndarray
    unit_nll: np.ndarray

    def metrics(self, prefix: str = "eval") -> dict[str, float]:
        """Scalars under the names of the run log; what is unknown is left out."""
        values: dict[str, float | None] = {
            "loss": self.nll,
            "nll": self.nll,
            "nll_stderr": self.nll_stderr,
            "nll_data_stderr": self.nll_data_stderr,
            "bpb": None if not self.num_bytes else self.nll * self.scored_tokens / math.log(2) / self.num_bytes,
            "ppl": math.inf if self.nll > 700 else math.exp(self.nll),
            "accuracy": self.accuracy,
            "replicates": self.replicates,
            "forwards": self.forwards,
            "scored_tokens": self.scored_tokens,
        }
        for name, by_noise in (("accuracy", self.accuracy_by_noise), ("nll", self.nll_by_noise)):
            for i, value in enumerate(() if by_noise is None else by_noise):
                values[f"{name}_noise_{(i + 1) / NOISE_BINS:.1f}"] = None if math.isnan(value) else float(value)
        return {f"{prefix}_{name}": value for name, value in values.items() if value is not None}


def _plain(batches: Iterable[Batch], _: str) -> Iterable[Batch]:
    return batches


@torch.no_grad()
def evaluate_likelihood(
    model: Any,
    objective: Objective,
    batches: Iterable[Batch],
    dataset_size: int,
    *,
    replicates: int = 8,
    target_stderr: float | None = None,
    max_replicates: int = MOST_REPLICATES,
    replicates_at_once: int = 1,
    seed: int = 0,
    data_unit: str = "documents",
    device: torch.device | str = "cpu",
    gather: Callable[[list[Any]], Sequence[Any]] = list,
    progress: Progress = _plain,
) -> LikelihoodResult:
    """Score every sequence of ``batches``; the model is left in the mode it was in.

    K replicates give the same bits whether ``replicates`` asked for them or ``target_stderr`` ended at them.

    Args:
        model: the network ``objective`` runs.
        objective: its ``bound`` and randomness decide what is estimated; where nothing is drawn there is one replicate,
            whatever is asked for.
        batches: clean tokens with ``index`` (B,), the place in the data set that keys the noise, and, if known,
            ``num_bytes`` (B,) and ``document_ids`` (B, L). With ``target_stderr`` they are read again and again.
        dataset_size: sequences in the data set, over all ranks.
        replicates: K, independent draws over the whole set; with ``target_stderr`` the fewest.
        target_stderr: draw, one replicate after the other, until ``nll_stderr`` is at most this; what that does to the
            standard error: :class:`~hf_difflm.evaluation.likelihood.draws.Draws`.
        max_replicates: most replicates, with ``target_stderr``.
        replicates_at_once: replicates of a batch that share a forward.
        seed: seed of the evaluation noise.
        data_unit: "documents", or "blocks" where all text is one document.
        device: where the model is.
        gather: turns this rank's one-element list into the list of all ranks'; called once a pass.
        progress: wraps each pass over the batches.

    Raises:
        ValueError: no scored token in the data; ``target_stderr`` with an iterator, which can be read only once.
        UserError: numbers of replicates or a target that are out of range.
    """
    draws = Draws(replicates, target_stderr, max_replicates)
    if not objective.stochastic:
        draws = Draws(1)
    if draws.target_stderr is not None and isinstance(batches, Iterator):
        raise ValueError("target_stderr needs batches that can be read again: give a list or EvaluationBatches")
    was_training = model.training
    model.eval()
    drawn: LikelihoodSums | None = None
    try:
        while replicates_K := draws.next_pass([] if drawn is None else drawn.means(), replicates_at_once):
            words = "evaluate" if drawn is None else f"evaluate, draw {replicates_K.start + 1}"
            parts = [
                score(model, objective, batch, dataset_size, replicates_K, replicates_at_once, seed, data_unit, device)
                for batch in progress(batches, words)
            ]
            if not parts:
                raise ValueError("nothing to evaluate: the evaluation set is empty")
            found = merge(list(gather([merge(parts)])))
            drawn = found if drawn is None else drawn.followed_by(found)
    finally:
        model.train(was_training)
    assert drawn is not None  # there is at least one replicate
    return _result(objective, drawn, data_unit)


def _result(objective: Objective, totals: LikelihoodSums, data_unit: str) -> LikelihoodResult:
    tokens = int(totals.unit_tokens.sum())
    nll_K = totals.means()
    nll = float(np.mean(nll_K))
    unit_nll = totals.nll().mean(0)
    correct, predicted = float(totals.correct_K.sum()), float(totals.predicted_K.sum())
    bins = totals.bins_K3N.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_noise = bins[:2] / bins[2] if objective.stochastic else (None, None)
    return LikelihoodResult(
        nll=nll,
        nll_stderr=standard_error_of_draws(nll_K) if objective.stochastic else 0.0,
        nll_data_stderr=standard_error_of_data(nll, unit_nll, totals.unit_tokens),
        data_unit=data_unit,
        bound=objective.bound,
        scored_tokens=tokens,
        num_bytes=totals.num_bytes,
        accuracy=correct / predicted if predicted else math.nan,
        accuracy_by_noise=by_noise[0],
        nll_by_noise=by_noise[1],
        replicates=len(nll_K),
        forwards=totals.forwards,
        unit_ids=totals.unit_ids,
        unit_tokens=totals.unit_tokens,
        unit_nll=unit_nll,
    )
