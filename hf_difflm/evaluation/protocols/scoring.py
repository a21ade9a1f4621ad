"""The likelihood of texts under a protocol, and its difference to the bound P0 by cause, from the same forwards.

protocol - P0 is the sum of: what the softmax spends on the mask token, which has probability 0 in P0 (same masks); what the
law of the masks does (the same draws divided by r(k), see ``laws``); what an EOS behind the text does (the same masks without
it); and the errors of the draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ...models import MaskedDiffusionForMaskedLM
from ...objectives import NoiseKey
from ...objectives.noise import row_uniforms
from ..likelihood.batches import rows_at_once
from ..undisturbed import undisturbed
from .laws import Law

_AFTER_P0 = 2**32
"""Word of the counter from which noise is drawn here: below it are the replicates of P0, whose errors are others."""


class Text(NamedTuple):
    """Its number in the data set, (L,) ids, and (N,) places of its scored tokens, at least one."""

    number: int
    ids_L: np.ndarray
    places_N: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """Nats per scored token, and the standard error of the draws; None with one batch of masks for each text."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class ProtocolResult:
    """What was found.

    Args:
        nll: as the protocol has it.
        mask_token: of it, what is spent on the mask token.
        masks: of it, what the law of the masks adds.
        eos: of it, what an EOS behind the text adds; None where none is put there.
        p0: what is left: the bound, from the same draws.
        log_likelihoods_T: (T,) in nats, of each text, as the protocol has it.
        lengths: scored tokens of each text.
        forwards: sequences through the model.
    """

    nll: Estimate
    mask_token: Estimate
    masks: Estimate
    eos: Estimate | None
    p0: Estimate
    log_likelihoods_T: np.ndarray
    lengths: tuple[int, ...]
    forwards: int

    @property
    def scored_tokens(self) -> int:
        """Of all texts."""
        return sum(self.lengths)


def score_texts(
    model: MaskedDiffusionForMaskedLM,
    law: Law,
    texts: Iterable[Text],
    *,
    draws: int = 128,
    batch: int = 16,
    eos_token_id: int | None = None,
    seed: int = 0,
    rows: int = 32,
) -> ProtocolResult:
    """Score texts.

    Args:
        model: without diffusion blocks.
        law: of the masks.
        texts: what is not scored is context, and never hidden.
        draws: masks of each text, a multiple of ``batch``.
        batch: masks that are drawn together.
        eos_token_id: what ``law.shows_eos`` puts behind each text.
        seed: of the draws.
        rows: sequences through the model at once.

    Raises:
        ValueError: a scored token that the law never hides.
    """
    found_TJC, lengths, forwards = [], [], 0
    with undisturbed(model):
        for text in texts:
            scored = len(text.places_N)
            if law.shows_eos and text.places_N[0] == 0:
                raise ValueError(
                    f"text {text.number} begins with a scored token, which {law.title} never hides: let it be context"
                )
            masks = [_draw(law, scored, batch, seed, text.number, j) for j in range(draws // batch)]
            masked_DN, weights_D, ratios_D = (np.concatenate(parts) for parts in zip(*masks, strict=True))
            behind = [eos_token_id] if law.shows_eos else []
            shown = text._replace(ids_L=np.concatenate([text.ids_L, behind]).astype(np.int64))
            raw_D, spent_D = masked_nll(model, shown, masked_DN, rows)
            alone_D = plain_D = raw_D - spent_D
            if law.shows_eos:
                alone_D = np.subtract(*masked_nll(model, text, masked_DN, rows))
            columns = (raw_D, spent_D, plain_D * (1 - 1 / ratios_D), (plain_D - alone_D) / ratios_D, alone_D / ratios_D)
            found_TJC.append((np.stack(columns, -1) * weights_D[:, None]).reshape(-1, batch, len(columns)).mean(1))
            forwards += int(masked_DN.any(-1).sum()) * (1 + law.shows_eos)
            lengths.append(scored)
    batches_TJC = np.stack(found_TJC)
    nll, mask_token, masks_, eos, p0 = _estimates(batches_TJC, sum(lengths))
    return ProtocolResult(
        nll=nll,
        mask_token=mask_token,
        masks=masks_,
        eos=eos if law.shows_eos else None,
        p0=p0,
        log_likelihoods_T=-batches_TJC[..., 0].mean(-1),
        lengths=tuple(lengths),
        forwards=forwards,
    )


def masked_nll(
    model: MaskedDiffusionForMaskedLM, text: Text, masked_DN: np.ndarray, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """(D,) sums of the hidden tokens' cross-entropies with the mask token's own logit, and what that logit adds to them.

    Args:
        model: without diffusion blocks.
        text: whose scored tokens are hidden.
        masked_DN: which of them, in each of D draws.
        rows: sequences through the model at once.
    """
    mask_id, raw_D, spent_D = model.config.mask_token_id, np.zeros(len(masked_DN)), np.zeros(len(masked_DN))
    some_D, ids_L = np.flatnonzero(masked_DN.any(-1)), torch.from_numpy(text.ids_L)
    at_once = min(rows, rows_at_once(masked_DN.shape[1], model.config.vocab_size))
    for first in range(0, len(some_D), at_once):
        some_R = some_D[first : first + at_once]
        hidden_RL = np.zeros((len(some_R), len(ids_L)), dtype=bool)
        hidden_RL[:, text.places_N] = masked_DN[some_R]
        ids_RL, hidden = ids_L.expand(len(some_R), -1), torch.from_numpy(hidden_RL)
        logits_NV = model(
            ids_RL.masked_fill(hidden, mask_id).to(model.device),
            positions=hidden.flatten().nonzero().squeeze(-1).to(model.device),
            keep_mask_logit=True,
        ).logits.float()
        nll_N = F.cross_entropy(logits_NV, ids_RL[hidden].to(logits_NV.device), reduction="none")
        spent_N = logits_NV.logsumexp(-1)
        logits_NV[:, mask_id] = float("-inf")
        spent_N = spent_N - logits_NV.logsumexp(-1)
        row_N = np.nonzero(hidden_RL)[0]
        for sums_D, found_N in ((raw_D, nll_N), (spent_D, spent_N)):
            sums_D[some_R] = np.bincount(row_N, found_N.double().cpu().numpy(), minlength=len(some_R))
    return raw_D, spent_D


def _draw(law: Law, scored: int, batch: int, seed: int, number: int, j: int) -> tuple[np.ndarray, ...]:
    """The masks of batch j of a text."""
    key = NoiseKey(seed, _AFTER_P0 + j, np.array([number]), 1, "eval")
    shared, *own = row_uniforms(key, np.array([batch * scored]))[0]
    return law.draw(float(shared), np.reshape(own, (batch, scored)))


def _estimates(batches_TJC: np.ndarray, tokens: int) -> list[Estimate]:
    """Of each column; batches of masks are independent of each other."""
    batches = batches_TJC.shape[1]
    values_C, stderr_C = batches_TJC.mean(1).sum(0) / tokens, [None] * batches_TJC.shape[-1]
    if batches > 1:
        stderr_C = (np.sqrt((batches_TJC.var(1, ddof=1) / batches).sum(0)) / tokens).tolist()
    return [Estimate(value, stderr) for value, stderr in zip(values_C.tolist(), stderr_C, strict=True)]
