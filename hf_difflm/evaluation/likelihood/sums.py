"""What an evaluation adds up: over the batches of a rank, over ranks, and replicate after replicate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...objectives import Batch, NoiseKey, Objective
from ...objectives.packed_documents import PIECES

NOISE_BINS = 10
"""Accuracy and cross-entropy are also given by masking rate, in this many equal bins of (0, 1]."""


@dataclass
class LikelihoodSums:
    """Sums over sequences for K replicates; what ranks exchange.

    A unit is a document, or a block of the data set. All sums are kept by replicate, so that they come to the same bits in
    however many passes the replicates were drawn.

    Args:
        unit_ids: (U,) ids of the units, sorted and unique.
        unit_nll_KU: (K, U) nll in nats, as drawn; see :meth:`nll`.
        excess_KU: (K, U) sum over the scored tokens of the weight of their sequence's draw, less 1: 0 on average.
        unit_tokens: (U,) scored tokens.
        correct_K: (K,) predicted tokens whose likeliest token is right, with the weights of their draws.
        predicted_K: (K,) predicted tokens, likewise.
        bins_K3N: (K, 3, NOISE_BINS) correct ones, their cross-entropy in nats and predicted ones by masking rate, likewise.
        num_bytes: UTF-8 bytes, or None where unknown.
        forwards: sequences through the model.
    """

    unit_ids: np.ndarray
    unit_nll_KU: np.ndarray
    excess_KU: np.ndarray
    unit_tokens: np.ndarray
    correct_K: np.ndarray
    predicted_K: np.ndarray
    bins_K3N: np.ndarray
    num_bytes: int | None
    forwards: int

    def nll(self) -> np.ndarray:
        """(K, U) nll in nats, less what weights of draws bring in where sequences are not equally long.

        A control variate: ``excess_KU`` times the nats per token that the other replicates found. These are independent of
        this replicate's draws and ``excess_KU`` has a mean of 0, so the mean stays what it was, exactly.

        Raises:
            ValueError: no scored token.
        """
        tokens, count = int(self.unit_tokens.sum()), len(self.unit_nll_KU)
        if tokens == 0:
            raise ValueError("nothing to evaluate: no token of the evaluation set is scored")
        if count < 2:
            return self.unit_nll_KU
        total_K = self.unit_nll_KU.sum(-1)
        others_K = (total_K.sum() - total_K) / (count - 1) / tokens
        return self.unit_nll_KU - others_K[:, None] * self.excess_KU

    def means(self) -> list[float]:
        """(K,) mean nll of each replicate in nats per scored token.

        Raises:
            ValueError: no scored token.
        """
        return (self.nll().sum(-1) / self.unit_tokens.sum()).tolist()

    def followed_by(self, later: LikelihoodSums) -> LikelihoodSums:
        """These replicates and later ones of the same sequences."""
        return LikelihoodSums(
            unit_ids=self.unit_ids,
            unit_nll_KU=np.concatenate([self.unit_nll_KU, later.unit_nll_KU]),
            excess_KU=np.concatenate([self.excess_KU, later.excess_KU]),
            unit_tokens=self.unit_tokens,
            correct_K=np.concatenate([self.correct_K, later.correct_K]),
            predicted_K=np.concatenate([self.predicted_K, later.predicted_K]),
            bins_K3N=np.concatenate([self.bins_K3N, later.bins_K3N]),
            num_bytes=self.num_bytes,
            forwards=self.forwards + later.forwards,
        )


def score(
    model: Any,
    objective: Objective,
    batch: Batch,
    dataset_size: int,
    replicates: range,
    at_once: int,
    seed: int,
    data_unit: str,
    device: torch.device | str,
) -> LikelihoodSums:
    """Some replicates of one batch, ``at_once`` of them a forward; one transfer to the host."""
    if PIECES in batch and not objective.reads_rows:
        raise ValueError(
            f"rows hold several documents each ({PIECES}), which {objective.name} scores one by one; give each a row of its "
            "own"
        )
    index_B = batch["index"].numpy()
    scored_BL = (batch["labels"] != -100).numpy()
    ids, units_BL = unit_places(batch, data_unit)
    groups = [replicates[first : first + at_once] for first in range(0, len(replicates), at_once)]
    outputs, nll_G, correct_G = [], [], []
    for ks in groups:
        key = _key(ks, index_B, dataset_size, seed)
        outputs.append(objective(model, _times(batch, len(ks)), key, 1, device, accuracy=True))
        # Copies: what a CUDA graph returns is overwritten by its next run.
        nll_G.append(outputs[-1].token_nll_N.double().clone())
        if (correct_N := outputs[-1].token_correct_N) is not None:
            correct_G.append(correct_N.clone())
    nll, correct = torch.cat(nll_G).cpu().numpy(), torch.cat(correct_G).cpu().numpy()
    nll_parts, excess_parts, correct_parts, predicted_parts, bin_parts = [], [], [], [], []
    scored_S, unit_S = np.nonzero(scored_BL)[0], np.searchsorted(ids, units_BL[scored_BL])
    start = 0
    for ks, output in zip(groups, outputs, strict=True):
        part = slice(start, start + len(output.rows_N))
        start = part.stop
        k_N, row_N = np.divmod(output.rows_N, len(index_B))  # which replicate of the group, which row of the batch
        where_N = k_N * len(ids) + np.searchsorted(ids, units_BL[row_N, output.columns_N])
        sums = np.bincount(where_N, output.token_weights_N * nll[part], minlength=len(ks) * len(ids))
        nll_parts.append(sums.reshape(len(ks), len(ids)))
        drawn_KB = np.ones((len(ks), len(index_B)))
        if output.draw_weights_R is not None:
            drawn_KB = output.draw_weights_R.reshape(len(ks), len(index_B), output.reads).mean(-1)
        excess_parts.append([np.bincount(unit_S, drawn_B[scored_S] - 1, minlength=len(ids)) for drawn_B in drawn_KB])
        drawn_N = drawn_KB[k_N, row_N]
        correct_parts.append(np.bincount(k_N, drawn_N * correct[part], minlength=len(ks)))
        predicted_parts.append(np.bincount(k_N, drawn_N, minlength=len(ks)))
        bins_K3N = np.zeros((len(ks), 3, NOISE_BINS))
        if "masking_rate" in output.row_metrics:
            bin_R = np.ceil(output.row_metrics["masking_rate"] * NOISE_BINS).astype(int).clip(1, NOISE_BINS) - 1
            bin_N = k_N * NOISE_BINS + bin_R[output.reads_N]
            for number, values_N in enumerate((correct[part], nll[part], np.ones(len(k_N)))):
                binned = np.bincount(bin_N, drawn_N * values_N, len(ks) * NOISE_BINS)
                bins_K3N[:, number] = binned.reshape(-1, NOISE_BINS)
        bin_parts.append(bins_K3N)
    return LikelihoodSums(
        unit_ids=ids,
        unit_nll_KU=np.concatenate(nll_parts),
        excess_KU=np.concatenate(excess_parts),
        unit_tokens=np.bincount(unit_S, minlength=len(ids)),
        correct_K=np.concatenate(correct_parts),
        predicted_K=np.concatenate(predicted_parts),
        bins_K3N=np.concatenate(bin_parts),
        num_bytes=int(batch["num_bytes"].sum()) if "num_bytes" in batch else None,
        forwards=sum(output.reads * len(ks) for ks, output in zip(groups, outputs, strict=True)) * len(index_B),
    )


def unit_places(batch: Batch, data_unit: str) -> tuple[np.ndarray, np.ndarray]:
    """The (U,) units that a batch scores, sorted, and the (B, L) unit of each of its positions."""
    units_BL = np.broadcast_to(batch["index"].numpy()[:, None], batch["labels"].shape)
    if data_unit == "documents" and "document_ids" in batch:
        units_BL = batch["document_ids"].numpy()
    return np.unique(units_BL[(batch["labels"] != -100).numpy()]), units_BL


def merge(parts: Sequence[LikelihoodSums]) -> LikelihoodSums:
    """Add up the same replicates of other sequences; a document may continue in the next batch or on another rank."""
    ids, where = np.unique(np.concatenate([p.unit_ids for p in parts]), return_inverse=True)
    nll_KU, excess_KU = (
        np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("unit_nll_KU", "excess_KU")
    )
    tokens = np.concatenate([p.unit_tokens for p in parts])
    num_bytes = [p.num_bytes for p in parts]
    return LikelihoodSums(
        unit_ids=ids,
        unit_nll_KU=np.stack([np.bincount(where, nll_U, len(ids)) for nll_U in nll_KU]),
        excess_KU=np.stack([np.bincount(where, excess_U, len(ids)) for excess_U in excess_KU]),
        unit_tokens=np.bincount(where, tokens, len(ids)).astype(np.int64),
        correct_K=np.sum([p.correct_K for p in parts], axis=0),
        predicted_K=np.sum([p.predicted_K for p in parts], axis=0),
        bins_K3N=np.sum([p.bins_K3N for p in parts], axis=0),
        num_bytes=None if None in num_bytes else sum(n for n in num_bytes if n is not None),
        forwards=sum(p.forwards for p in parts),
    )


def _times(batch: Batch, count: int) -> Batch:
    """The batch, once for each replicate of a forward, one after the other."""
    if count == 1:
        return batch
    return {name: rows.repeat(count, *[1] * (rows.ndim - 1)) for name, rows in batch.items()}


def _key(replicates: range, index_B: np.ndarray, dataset_size: int, seed: int) -> NoiseKey:
    if len(replicates) == 1:
        return NoiseKey(seed, replicates.start, index_B, dataset_size, "eval")
    steps_R = np.repeat(np.array(replicates), len(index_B))
    return NoiseKey(seed, steps_R, np.tile(index_B, len(replicates)), dataset_size, "eval")
