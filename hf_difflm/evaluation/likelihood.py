"""Likelihood of a held-out set, with the two errors it has.

``nll`` is the mean over scored tokens (never a mean of batch means). For a bound estimated by Monte Carlo the whole set is
scored in K replicates, each with its own noise (a function of seed, replicate and the sequence's index in the data set), so
the spread of the K means gives ``nll_stderr``: how far this number is from the one that infinitely many draws would give.
``nll_data_stderr`` is the other error, over documents: how far it is from the one that more text would give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..objectives import Batch, NoiseKey, Objective

NOISE_BINS = 10
"""Accuracy and cross-entropy are also given by masking rate, in this many equal bins of (0, 1]."""


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
        forwards: sequences that went through the model.
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
            "scored_tokens": self.scored_tokens,
        }
        for name, by_noise in (("accuracy", self.accuracy_by_noise), ("nll", self.nll_by_noise)):
            for i, value in enumerate(() if by_noise is None else by_noise):
                values[f"{name}_noise_{(i + 1) / NOISE_BINS:.1f}"] = None if math.isnan(value) else float(value)
        return {f"{prefix}_{name}": value for name, value in values.items() if value is not None}


@dataclass
class _Totals:
    """Sums over the sequences one rank has scored; what ranks exchange."""

    unit_ids: np.ndarray  # (U,) document ids, sorted and unique, or one id a block
    unit_nll_KU: np.ndarray
    unit_tokens: np.ndarray  # (U,)
    correct: float
    predicted: float
    bins: np.ndarray  # (3, NOISE_BINS): correct, cross-entropy, predicted
    num_bytes: int | None
    forwards: int


@torch.no_grad()
def evaluate_likelihood(
    model: Any,
    objective: Objective,
    batches: Iterable[Batch],
    dataset_size: int,
    *,
    replicates: int = 8,
    seed: int = 0,
    data_unit: str = "documents",
    device: torch.device | str = "cpu",
    gather: Callable[[list[Any]], Sequence[Any]] = list,
) -> LikelihoodResult:
    """Score every sequence of ``batches``; the model is left in the mode it was in.

    Args:
        model: the network ``objective`` runs.
        objective: its ``bound`` and randomness decide what is estimated; replicates are 1 where nothing is drawn.
        batches: clean tokens with ``index`` (B,), the place in the data set that keys the noise, and, if known,
            ``num_bytes`` (B,) and ``document_ids`` (B, L).
        dataset_size: sequences in the data set, over all ranks.
        replicates: K, independent draws over the whole set.
        seed: seed of the evaluation noise.
        data_unit: "documents", or "blocks" where all text is one document.
        device: where the model is.
        gather: turns this rank's one-element list into the list of all ranks'.

    Raises:
        ValueError: no scored token in the data.
    """
    replicates = replicates if objective.stochastic else 1
    was_training = model.training
    model.eval()
    try:
        parts = [
            _score(model, objective, batch, dataset_size, replicates, seed, data_unit, device) for batch in batches
        ]
    finally:
        model.train(was_training)
    totals = _merge(list(gather([_merge(parts)])) if parts else [])
    return _result(objective, totals, replicates, data_unit)


def _score(
    model: Any,
    objective: Objective,
    batch: Batch,
    dataset_size: int,
    replicates: int,
    seed: int,
    data_unit: str,
    device: torch.device | str,
) -> _Totals:
    """K forwards over one batch; one transfer to the host."""
    index_B = batch["index"].numpy()
    scored_BL = (batch["labels"] != -100).numpy()
    units_BL = np.broadcast_to(index_B[:, None], scored_BL.shape)
    if data_unit == "documents" and "document_ids" in batch:
        units_BL = batch["document_ids"].numpy()
    outputs = [
        objective(model, batch, NoiseKey(seed, k, index_B, dataset_size, "eval"), 1, device, accuracy=True)
        for k in range(replicates)
    ]
    nll = torch.cat([o.token_nll_N for o in outputs]).double().cpu().numpy()
    correct = torch.cat([o.token_correct_N for o in outputs if o.token_correct_N is not None]).cpu().numpy()
    ids = np.unique(units_BL[scored_BL])
    unit_nll_KU = np.zeros((replicates, len(ids)))
    bins = np.zeros((3, NOISE_BINS))
    start = 0
    for k, output in enumerate(outputs):
        part = slice(start, start + len(output.rows_N))
        start = part.stop
        where_N = np.searchsorted(ids, units_BL[output.rows_N, output.columns_N])
        unit_nll_KU[k] = np.bincount(where_N, output.token_weights_N * nll[part], minlength=len(ids))
        if "masking_rate" in output.row_metrics:
            bin_B = np.ceil(output.row_metrics["masking_rate"] * NOISE_BINS).astype(int).clip(1, NOISE_BINS) - 1
            bin_N = bin_B[output.rows_N]
            sums = (correct[part].astype(float), nll[part], None)
            bins += np.stack([np.bincount(bin_N, weights_N, NOISE_BINS) for weights_N in sums])
    return _Totals(
        unit_ids=ids,
        unit_nll_KU=unit_nll_KU,
        unit_tokens=np.bincount(np.searchsorted(ids, units_BL[scored_BL]), minlength=len(ids)),
        correct=float(correct.sum()),
        predicted=float(len(correct)),
        bins=bins,
        num_bytes=int(batch["num_bytes"].sum()) if "num_bytes" in batch else None,
        forwards=len(index_B) * replicates,
    )


def _merge(parts: list[_Totals]) -> _Totals:
    """Add up; a document may continue in the next batch or on another rank."""
    if not parts:
        raise ValueError("nothing to evaluate: the evaluation set is empty")
    ids, where = np.unique(np.concatenate([p.unit_ids for p in parts]), return_inverse=True)
    nll_KU = np.concatenate([p.unit_nll_KU for p in parts], axis=1)
    tokens = np.concatenate([p.unit_tokens for p in parts])
    num_bytes = [p.num_bytes for p in parts]
    return _Totals(
        unit_ids=ids,
        unit_nll_KU=np.stack([np.bincount(where, nll_U, len(ids)) for nll_U in nll_KU]),
        unit_tokens=np.bincount(where, tokens, len(ids)).astype(np.int64),
        correct=sum(p.correct for p in parts),
        predicted=sum(p.predicted for p in parts),
        bins=np.sum([p.bins for p in parts], axis=0),
        num_bytes=None if None in num_bytes else sum(n for n in num_bytes if n is not None),
        forwards=sum(p.forwards for p in parts),
    )


def _result(objective: Objective, totals: _Totals, replicates: int, data_unit: str) -> LikelihoodResult:
    tokens = int(totals.unit_tokens.sum())
    if tokens == 0:
        raise ValueError("nothing to evaluate: no token of the evaluation set is scored")
    nll_K = totals.unit_nll_KU.sum(-1) / tokens
    nll = float(nll_K.mean())
    if not objective.stochastic:
        stderr: float | None = 0.0
    else:
        stderr = float(nll_K.std(ddof=1) / math.sqrt(replicates)) if replicates > 1 else None
    unit_nll = totals.unit_nll_KU.mean(0)
    units = len(totals.unit_ids)
    residual = unit_nll - nll * totals.unit_tokens
    with np.errstate(invalid="ignore", divide="ignore"):
        by_noise = totals.bins[:2] / totals.bins[2] if objective.stochastic else (None, None)
    return LikelihoodResult(
        nll=nll,
        nll_stderr=stderr,
        nll_data_stderr=float(math.sqrt(units / (units - 1) * (residual**2).sum()) / tokens) if units > 1 else None,
        data_unit=data_unit,
        bound=objective.bound,
        scored_tokens=tokens,
        num_bytes=totals.num_bytes,
        accuracy=totals.correct / totals.predicted if totals.predicted else math.nan,
        accuracy_by_noise=by_noise[0],
        nll_by_noise=by_noise[1],
        replicates=replicates,
        forwards=totals.forwards,
        unit_ids=totals.unit_ids,
        unit_tokens=totals.unit_tokens,
        unit_nll=unit_nll,
    )
