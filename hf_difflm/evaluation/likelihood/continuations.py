"""log p(continuation | context) of a causal LM (exact) or a masked diffusion model (a bound), request by request.

For a continuation of L tokens the bound is that of evaluation, with the context never masked: draw k uniformly from 1..L and
a k-subset M of the continuation; L E_k E_M [(1/k) sum_{i in M} -log mu^i(x^i)] (arXiv 2110.02037, eq. 5; for comparisons of
this kind arXiv 2502.09992, eq. 6). Where the continuation has no more subsets than there are draws, all of them are taken,
each with its probability: then nothing is drawn, and of a continuation of one token the likelihood is exact.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...data import Collator
from ...errors import UserError
from ...objectives import CausalObjective, MaskedDiffusionObjective, NoiseKey
from ..undisturbed import undisturbed


@dataclass(frozen=True)
class Request:
    """Score ``continuation`` after ``context``, both token ids and not empty; ``own_noise``: see :class:`Scorer`."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    own_noise: bool = False

    @property
    def ids(self) -> tuple[int, ...]:
        return self.context + self.continuation


class Scorer:
    """Scores requests with one model.

    The noise of a request is a function of the seed and its context alone: neither the requests beside it nor their order
    matter, and the choices after one context share their draws, so that less of what tells them apart is chance. A request
    with ``own_noise`` has noise of its own continuation, too: windows of many texts must not share their errors.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        is_denoiser: whether it is a masked diffusion model.
        draws: subsets masked for each request; masked diffusion only.
        seed: seed of the draws.
        batch_size: sequences through the model at once.

    Raises:
        UserError: a model with diffusion blocks, whose bound is another one.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, is_denoiser: bool, draws: int = 32, seed: int = 0, batch_size: int = 32
    ) -> None:
        if is_denoiser and model.config.diffusion_block_size is not None:
            raise UserError(
                f"the model has diffusion blocks of {model.config.diffusion_block_size} tokens, of which the likelihood of a "
                "continuation is not there yet; leave out tasks, and evaluate text with hf-difflm eval"
            )
        self.model = model
        self.is_denoiser = is_denoiser
        self.draws = draws
        self.seed = seed
        self.batch_size = batch_size
        self._collator = Collator(tokenizer)

    def log_likelihoods(self, requests: Sequence[Request]) -> np.ndarray:
        """(R,) float64: log p of each continuation in nats, of a masked diffusion model a lower bound on it."""
        sums_R = np.zeros(len(requests))
        work = self._masked_work(requests) if self.is_denoiser else ((r, None, 1.0) for r in range(len(requests)))
        with undisturbed(self.model):
            for items in _batches(work, self.batch_size):
                nll_B = self._masked_nll(requests, items) if self.is_denoiser else self._causal(requests, items)[0]
                np.subtract.at(sums_R, [r for r, _, _ in items], nll_B)
        return sums_R

    def are_greedy(self, requests: Sequence[Request]) -> np.ndarray:
        """(R,) bool: whether greedy decoding writes the continuation.

        A causal LM writes its likeliest tokens from left to right; a masked diffusion model one token at a time, where it is
        surest of one.
        """
        with undisturbed(self.model):
            parts = [
                self._greedy_by_confidence([requests[r] for r, _, _ in items])
                if self.is_denoiser
                else self._causal(requests, items)[1]
                for items in _batches(((r, None, 1.0) for r in range(len(requests))), self.batch_size)
            ]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)

    # Causal LMs.

    def _causal(self, requests: Sequence[Request], items: Sequence[_Item]) -> tuple[np.ndarray, np.ndarray]:
        """(B,) nll in nats and whether all predictions were right, of one forward."""
        batch = self._collator([_row(requests[r]) for r, _, _ in items])
        places_B = np.arange(len(items))
        output = CausalObjective()(
            self.model, batch, NoiseKey(0, 0, places_B, len(items), "eval"), 1, self.model.device, accuracy=True
        )
        assert output.token_correct_N is not None
        nll_B = np.bincount(output.rows_N, output.token_nll_N.double().cpu().numpy(), minlength=len(items))
        wrong_B = np.bincount(output.rows_N, ~output.token_correct_N.cpu().numpy(), minlength=len(items))
        return nll_B, wrong_B == 0

    # Masked diffusion models.

    def _masked_work(self, requests: Sequence[Request]) -> Iterator[_Item]:
        """What goes through the model: the number of the request, what is masked in it, what that counts."""
        objective = MaskedDiffusionObjective(self.model.config.mask_token_id).for_evaluation()
        for r, request in enumerate(requests):
            length = len(request.continuation)
            if length < 32 and 2**length - 1 <= self.draws:
                masked_DL, weights_D = all_subsets(length)
            else:
                key = NoiseKey(self.seed, _number(request), np.arange(self.draws), self.draws, "eval")
                corruption = objective.corrupt(np.ones((self.draws, length), dtype=bool), key)
                masked_DL, weights_D = corruption.masked_BL, corruption.weights_B / self.draws
            for masked_L, weight in zip(masked_DL, weights_D, strict=True):
                yield r, masked_L, float(weight)

    def _masked_nll(self, requests: Sequence[Request], items: Sequence[_Item]) -> np.ndarray:
        """(B,) each item's share of the bound in nats, of one forward."""
        masks = [np.concatenate([np.zeros(len(requests[r].context), dtype=bool), masked_L]) for r, masked_L, _ in items]
        logits_NV, labels_N, rows_N = self._predict([requests[r].ids for r, _, _ in items], masks)
        nll_N = torch.nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="none").double().cpu().numpy()
        weights_B = np.array([weight for _, _, weight in items])
        return weights_B * np.bincount(rows_N, nll_N, minlength=len(items))

    def _greedy_by_confidence(self, requests: Sequence[Request]) -> np.ndarray:
        """(B,) bool; stops with the first token that differs."""
        masks = [np.array([False] * len(one.context) + [True] * len(one.continuation)) for one in requests]
        greedy_B = np.ones(len(requests), dtype=bool)
        while going := [b for b, mask in enumerate(masks) if greedy_B[b] and mask.any()]:
            logits_NV, labels_N, rows_N = self._predict([requests[b].ids for b in going], [masks[b] for b in going])
            confidence_N, best_N = (found.cpu().numpy() for found in logits_NV.float().log_softmax(-1).max(-1))
            correct_N = best_N == labels_N.cpu().numpy()
            for place, b in enumerate(going):
                own_N = np.flatnonzero(rows_N == place)
                surest = own_N[confidence_N[own_N].argmax()]
                greedy_B[b] = correct_N[surest]
                masks[b][np.flatnonzero(masks[b])[surest - own_N[0]]] = False
        return greedy_B

    def _predict(
        self, ids: Sequence[tuple[int, ...]], masks: Sequence[np.ndarray]
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """(N, V) logits and (N,) clean ids at the masked positions, and (N,) the row of each, row by row from the left."""
        batch = self._collator([{"input_ids": list(one)} for one in ids])
        clean_BL, attention_BL = batch["input_ids"], batch["attention_mask"]
        masked_BL = np.zeros(tuple(clean_BL.shape), dtype=bool)
        for row_L, mask in zip(masked_BL, masks, strict=True):
            row_L[: len(mask)] = mask
        rows_N, columns_N = np.nonzero(masked_BL)
        positions_N = torch.from_numpy(rows_N * masked_BL.shape[1] + columns_N)
        device = self.model.device
        hidden_BL = clean_BL.masked_fill(torch.from_numpy(masked_BL), self.model.config.mask_token_id)
        logits_NV = self.model(
            input_ids=hidden_BL.to(device),
            attention_mask=None if bool(attention_BL.all()) else attention_BL.to(device),
            positions=positions_N.to(device),
        ).logits
        return logits_NV, clean_BL.flatten()[positions_N].to(device), rows_N


_Item = tuple[int, Any, float]
"""Number of the request, (L,) bool of what is masked in its continuation (None: nothing), weight."""


def all_subsets(length: int) -> tuple[np.ndarray, np.ndarray]:
    """All non-empty subsets of ``length`` tokens, (D, L) bool, and their weights in the bound, (D,).

    L E_k E_M [(1/k) ...] gives each subset of k tokens the weight L (1/L) (1 / C(L, k)) (1/k).
    """
    masked_DL = np.array(list(itertools.product((False, True), repeat=length)))[1:]
    sizes_D = masked_DL.sum(-1)
    return masked_DL, np.array([1 / (math.comb(length, k) * k) for k in sizes_D.tolist()])


def _row(request: Request) -> dict[str, Any]:
    return {"input_ids": list(request.ids), "labels": [-100] * len(request.context) + list(request.continuation)}


def _number(request: Request) -> int:
    """The word of the counter that a request's noise is drawn with."""
    ids = request.ids if request.own_noise else request.context
    return int.from_bytes(hashlib.blake2b(np.array(ids, dtype=np.int64).tobytes(), digest_size=7).digest(), "big")


def _batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
