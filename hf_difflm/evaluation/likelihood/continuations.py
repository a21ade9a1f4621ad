"""log p(continuation | context) of a causal LM (exact) or a masked diffusion model (a bound), request by request.

For a continuation of L tokens the bound is that of evaluation, with the context never masked: draw k uniformly from 1..L and
a k-subset M of the continuation; L E_k E_M [(1/k) sum_{i in M} -log mu^i(x^i)] (arXiv 2110.02037, eq. 5; for comparisons of
this kind arXiv 2502.09992, eq. 6). Where the continuation has no more subsets than there are draws, all of them are taken,
each with its probability: then nothing is drawn, and of a continuation of one token the likelihood is exact.

Of a model with diffusion blocks it is a sum of such bounds, one for each block that has tokens of the continuation, given
the clean text before the block (BD3-LM, arXiv 2503.09573); where a block has no more subsets than there are draws, all of
them are taken. Blocks of one token are exact. Borders are those of the whole text, so that the last block of a context may
be shared with the continuation; with ``diffusion_block_start: answer`` blocks begin anew at the continuation.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from ...data import Collator
from ...models.masked_diffusion.diffusion_blocks import number_from
from ...objectives import BlockDiffusionObjective, CausalObjective, MaskedDiffusionObjective, NoiseKey
from ..undisturbed import undisturbed
from .batches import rows_at_once


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
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, is_denoiser: bool, draws: int = 32, seed: int = 0, batch_size: int = 32
    ) -> None:
        self.model = model
        self.is_denoiser = is_denoiser
        self.draws = draws
        self.seed = seed
        self.batch_size = batch_size
        self._collator = Collator(tokenizer)

    def log_likelihoods(self, requests: Sequence[Request]) -> np.ndarray:
        """(R,) float64: log p of each continuation in nats, of a masked diffusion model a lower bound on it."""
        sums_R = np.zeros(len(requests))
        is_cached_R = np.array([self.is_denoiser and self._context_pays(request) for request in requests], dtype=bool)
        work: Iterable[_Item] = ((r, None, None) for r in range(len(requests)))
        if self.is_denoiser:
            work = self._masked_work(requests, np.flatnonzero(~is_cached_R).tolist())
        with undisturbed(self.model):
            read, context = _ReadText(self.model), None
            for r in np.flatnonzero(is_cached_R).tolist():
                if requests[r].context != context:
                    read, context = _ReadText(self.model), requests[r].context
                sums_R[r], read = self._after_its_context(requests[r], read)
            for items in _batches(work, self.batch_size):
                nll_B = self._masked_nll(requests, items) if self.is_denoiser else self._causal(requests, items)[0]
                np.subtract.at(sums_R, [r for r, _, _ in items], nll_B)
        return sums_R

    def are_greedy(self, requests: Sequence[Request]) -> np.ndarray:
        """(R,) bool: whether greedy decoding writes the continuation.

        A causal LM writes its likeliest tokens from left to right; a masked diffusion model one token at a time, where it is
        surest of one, one diffusion block after the other.
        """
        at_once = self.batch_size
        if self.is_denoiser:
            longest = max((np.bincount(self._block_numbers(request)).max() for request in requests), default=1)
            at_once = min(at_once, rows_at_once(int(longest), self.model.config.vocab_size))
        with undisturbed(self.model):
            parts = [
                self._greedy_by_confidence([requests[r] for r, _, _ in items])
                if self.is_denoiser
                else self._causal(requests, items)[1]
                for items in _batches(((r, None, None) for r in range(len(requests))), at_once)
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

    def _masked_work(self, requests: Sequence[Request], places: Iterable[int]) -> Iterator[_Item]:
        """What goes through the model: the number of the request, what is masked in it, what each position counts."""
        for r in places:
            for masked_L, weights_L in zip(*self._cases(requests[r]), strict=True):
                if masked_L.any():
                    yield r, masked_L, weights_L

    def _cases(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """(D, L) bool, what is masked of a continuation, and (D, L) what each position then counts in its bound."""
        number_L = self._block_numbers(request)
        blocks = [np.flatnonzero(number_L == number) for number in np.unique(number_L)]
        few = [block for block in blocks if len(block) < 32 and 2 ** len(block) - 1 <= self.draws]
        if len(few) == len(blocks):
            masked_DL = np.zeros((max(2 ** len(block) - 1 for block in blocks), len(number_L)), dtype=bool)
            weights_DL = np.zeros(masked_DL.shape)
        else:
            masked_DL, weights_DL = self._drawn(request)
        for block in few:
            subsets_XN, weights_X = all_subsets(len(block))
            masked_DL[:, block], weights_DL[:, block] = False, 0
            masked_DL[: len(subsets_XN), block] = subsets_XN
            weights_DL[: len(subsets_XN), block] = weights_X[:, None]
        return masked_DL, weights_DL

    def _drawn(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        config, context, length = self.model.config, len(request.context), len(request.continuation)
        key = NoiseKey(self.seed, _number(request), np.arange(self.draws), self.draws, "eval")
        if config.diffusion_block_size is None:
            whole = MaskedDiffusionObjective(config.mask_token_id).for_evaluation()
            drawn = whole.corrupt(np.ones((self.draws, length), dtype=bool), key)
            return drawn.masked_BL, np.repeat(drawn.weights_B[:, None] / self.draws, length, axis=1)
        blocks = BlockDiffusionObjective(
            config.mask_token_id, config.diffusion_block_size, diffusion_block_start=config.diffusion_block_start
        )
        scored_DL = np.zeros((self.draws, context + length), dtype=bool)
        scored_DL[:, context:] = True
        in_blocks = blocks.corrupt(scored_DL, key)
        return in_blocks.masked_RL[:, context:], in_blocks.weights_RL[:, context:] / self.draws

    def _block_numbers(self, request: Request) -> np.ndarray:
        """(L,) the diffusion block that each token of a continuation is in; all in one where the model has none."""
        config, start = self.model.config, len(request.context)
        if config.diffusion_block_size is None:
            return np.zeros(len(request.continuation), dtype=np.int64)
        places_L = np.arange(start, len(request.ids))
        return number_from(
            places_L, start if config.diffusion_block_start == "answer" else 0, config.diffusion_block_size
        )

    def _masked_nll(self, requests: Sequence[Request], items: Sequence[_Item]) -> np.ndarray:
        """(B,) each item's share of the bound in nats, of one forward."""
        inputs, clean_BL, rows_N = self._inputs([requests[r] for r, _, _ in items], [masked for _, masked, _ in items])
        if self.model.config.diffusion_block_size is not None:
            inputs["clean_ids"] = clean_BL
        labels_BL = torch.full_like(clean_BL, -100)
        labels_BL.view(-1)[inputs["positions"]] = clean_BL.view(-1)[inputs["positions"]]
        nll_N = self.model(**inputs, labels=labels_BL).token_nll.double().cpu().numpy()
        weights_N = np.concatenate([weights_L[masked_L] for _, masked_L, weights_L in items])
        return np.bincount(rows_N, weights_N * nll_N, minlength=len(items))

    def _context_pays(self, request: Request) -> bool:
        """Whether a request costs less with its context read once, and each block of the continuation after it.

        Else all its blocks are read at once, context and all, for each draw.
        """
        size = self.model.config.diffusion_block_size
        if size in (None, 1):  # nothing is drawn
            return False
        return len(np.unique(self._block_numbers(request))) * size <= len(request.context)

    def _after_its_context(self, request: Request, known: _ReadText) -> tuple[float, _ReadText]:
        """The bound on log p in nats, block after block with a cache of the clean text before; and the context as read.

        ``known`` is what was read of the same context, or nothing.
        """
        config, context = self.model.config, len(request.context)
        number_L, (masked_DL, weights_DL) = self._block_numbers(request), self._cases(request)
        ids_T, total, before, read = torch.tensor(request.ids), 0.0, None, known
        for number in np.unique(number_L).tolist():
            block_N = np.flatnonzero(number_L == number)
            begin, end = context + int(block_N[0]), context + int(block_N[-1]) + 1
            if before is None and config.diffusion_block_start == "text":
                begin = number * config.diffusion_block_size  # it begins in the context
            read = read.up_to(request.ids[:begin], context)
            before = before or read
            rows_DT = ids_T[len(read.ids) : end].repeat(len(masked_DL), 1)
            hidden_DT = np.zeros(tuple(rows_DT.shape), dtype=bool)
            hidden_DT[:, context + block_N - len(read.ids)] = masked_DL[:, block_N]
            some_D = np.flatnonzero(hidden_DT.any(-1))
            at_once = min(self.batch_size, rows_at_once(len(block_N), config.vocab_size))
            for first in range(0, len(some_D), at_once):
                some_R = some_D[first : first + at_once]
                hidden_RT = torch.from_numpy(hidden_DT[some_R])
                logits_NV = read.logits_after(
                    rows_DT[some_R].masked_fill(hidden_RT, config.mask_token_id), hidden_RT, context
                )
                true_N = rows_DT[some_R][hidden_RT].to(logits_NV.device)
                nll_N = torch.nn.functional.cross_entropy(logits_NV.float(), true_N, reduction="none")
                weights_N = weights_DL[some_R][:, block_N][masked_DL[some_R][:, block_N]]
                total -= float(weights_N @ nll_N.double().cpu().numpy())
        return total, before or known

    def _greedy_by_confidence(self, requests: Sequence[Request]) -> np.ndarray:
        """(B,) bool; stops with the first token that differs."""
        numbers = [self._block_numbers(one) for one in requests]
        masks = [np.ones(len(one.continuation), dtype=bool) for one in requests]
        greedy_B = np.ones(len(requests), dtype=bool)
        while going := [b for b, mask in enumerate(masks) if greedy_B[b] and mask.any()]:
            # Later blocks are not seen from this one.
            now = [masks[b] & (numbers[b] == numbers[b][masks[b]].min()) for b in going]
            inputs, clean_BL, rows_N = self._inputs([requests[b] for b in going], now)
            logits_NV = self.model(**inputs).logits.float()
            confidence_N, best_N = (found.cpu().numpy() for found in logits_NV.log_softmax(-1).max(-1))
            correct_N = best_N == clean_BL.view(-1)[inputs["positions"]].cpu().numpy()
            for place, b in enumerate(going):
                own_N = np.flatnonzero(rows_N == place)
                surest = own_N[confidence_N[own_N].argmax()]
                greedy_B[b] = correct_N[surest]
                masks[b][np.flatnonzero(now[place])[surest - own_N[0]]] = False
        return greedy_B

    def _inputs(
        self, requests: Sequence[Request], masks: Sequence[np.ndarray]
    ) -> tuple[dict[str, Any], torch.Tensor, np.ndarray]:
        """Arguments of the model for requests of whose continuations some tokens are masked.

        Returns:
            They, among them ``positions`` (N,) of the masked tokens, row by row from the left; (B, L) clean ids; and (N,) the
            row of each masked token.
        """
        batch = self._collator([{"input_ids": list(one.ids)} for one in requests])
        clean_BL, attention_BL = batch["input_ids"], batch["attention_mask"]
        masked_BL = np.zeros(tuple(clean_BL.shape), dtype=bool)
        for row_L, one, mask in zip(masked_BL, requests, masks, strict=True):
            row_L[len(one.context) : len(one.ids)] = mask
        rows_N, columns_N = np.nonzero(masked_BL)
        config, device = self.model.config, self.model.device
        inputs = {
            "input_ids": clean_BL.masked_fill(torch.from_numpy(masked_BL), config.mask_token_id).to(device),
            "attention_mask": None if bool(attention_BL.all()) else attention_BL.to(device),
            "positions": torch.from_numpy(rows_N * masked_BL.shape[1] + columns_N).to(device),
        }
        if config.diffusion_block_size is not None and config.diffusion_block_start == "answer":
            inputs["answer_starts"] = torch.tensor([len(one.context) for one in requests]).to(device)
        return inputs, clean_BL.to(device), rows_N


class _ReadText:
    """Whole blocks of clean text in a cache, of a model that has diffusion blocks; never changed.

    Where a token is predicted from the position before it, the last one is left out: it is read again beside what follows.
    """

    def __init__(self, model: Any, ids: tuple[int, ...] = (), cache: DynamicCache | None = None) -> None:
        self.model, self.ids, self._cache = model, ids, cache or DynamicCache()

    def up_to(self, ids: tuple[int, ...], answer_start: int) -> _ReadText:
        """Whole blocks that go on from this text, or this one if it is they; read from their beginning if they are others."""
        again = int(self.model.config.shift_logits)
        kept = ids[: len(ids) - again]
        if kept == self.ids:
            return self
        known, cache = 0, DynamicCache()
        if ids[: len(self.ids)] == self.ids:
            known, cache = len(self.ids), copy.deepcopy(self._cache)
        self._forward(torch.tensor([ids[known:]]), cache, answer_start, torch.zeros(0, dtype=torch.long))
        if again:
            cache.crop(-again)
        return _ReadText(self.model, kept, cache)

    def logits_after(self, ids_RT: torch.Tensor, hidden_RT: torch.Tensor, answer_start: int) -> torch.Tensor:
        """(N, V) logits at the hidden tokens of R ways in which this text goes on within a block."""
        cache = copy.deepcopy(self._cache)
        cache.batch_repeat_interleave(len(ids_RT))
        return self._forward(ids_RT, cache, answer_start, hidden_RT.flatten().nonzero().squeeze(-1)).logits

    def _forward(self, ids_RT: torch.Tensor, cache: DynamicCache, answer_start: int, positions: torch.Tensor) -> Any:
        device, given = self.model.device, {}
        if self.model.config.diffusion_block_start == "answer":
            given["answer_starts"] = torch.full((len(ids_RT),), answer_start, device=device)
        return self.model(ids_RT.to(device), past_key_values=cache, positions=positions.to(device), **given)


_Item = tuple[int, Any, Any]
"""Number of the request, (L,) bool of what is masked in its continuation and (L,) weights (causal LMs: None)."""


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
