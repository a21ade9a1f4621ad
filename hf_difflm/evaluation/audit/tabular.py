"""Denoisers that are tables: one free distribution for each partly masked sequence and position, so nothing limits them.

Shapes: D denoisers in one module, T nodes of time (1 where they do not read it), Z = (V + 1)^L partly masked sequences, a
number in base V + 1 whose digit V is the mask, most significant first; L positions, V tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ...models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput


class TabularDenoisers(nn.Module):
    """D tables, each called as ``MaskedDiffusionForMaskedLM.forward`` is; float64.

    Which of them reads a row, and by how much its gradient counts, is said by :meth:`read_rows` before a call.

    Args:
        logits_DTZLV: of the tokens; columns after the ``vocabulary``-th are outcomes that are no token.
        times_T: (T,) the times that the tables are of; None: they do not read the time.
        vocabulary: V; None: all columns.
    """

    def __init__(
        self, logits_DTZLV: torch.Tensor, times_T: np.ndarray | None = None, vocabulary: int | None = None
    ) -> None:
        super().__init__()
        self.length = logits_DTZLV.shape[-2]
        self.vocabulary = self.mask_token_id = vocabulary or logits_DTZLV.shape[-1]
        self.config = SimpleNamespace(time_conditioned=times_T is not None, mask_token_id=self.mask_token_id)
        self.logits_DTZLV = nn.Parameter(logits_DTZLV.double())
        self.times_T = None if times_T is None else torch.from_numpy(times_T)
        self.rows_B: torch.Tensor | None = None
        self.gradient_weights_B: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """D."""
        return self.logits_DTZLV.shape[0]

    def read_rows(self, rows_B: np.ndarray, gradient_weights_B: np.ndarray | None = None) -> None:
        """Say of the next call's rows which denoiser reads them, and how much each counts in gradients, not in values.

        So a mean over sequences that are not equally likely is trained through any objective, which weighs rows alike.

        Args:
            rows_B: (B,) 0..D-1.
            gradient_weights_B: (B,) float64; None: 1.
        """
        self.rows_B = torch.from_numpy(rows_B)
        self.gradient_weights_B = None if gradient_weights_B is None else torch.from_numpy(gradient_weights_B)

    def log_probabilities(self) -> torch.Tensor:
        """(D, T, Z, L, V) log mu, detached; what is no token has its columns, too."""
        return self.logits_DTZLV.detach().log_softmax(-1)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        output_correct: bool = False,
        on_labelled_gradient: Callable[[torch.Tensor], None] | None = None,
        times: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> MaskedDiffusionOutput:
        """See ``MaskedDiffusionForMaskedLM.forward``; ``token_nll`` is not detached, ``hidden_states`` name the place.

        The hidden state of a position is (its number among all D·T·Z·L, the weight of its row in gradients); it has no
        gradient, and ``on_labelled_gradient`` is not called.
        """
        if positions is None:
            asked = torch.ones_like(input_ids, dtype=torch.bool) if labels is None else labels != -100
            positions_N = asked.flatten().nonzero().squeeze(-1)
        else:
            positions_N = positions
        place_BL = self._places(input_ids, times)
        weights_B = self._each_reading(self.gradient_weights_B, len(input_ids))
        row_N, ids_N = positions_N // self.length, input_ids.flatten()[positions_N]
        logits_NV = F.embedding(place_BL.flatten()[positions_N], self.logits_DTZLV.flatten(0, -2))
        if weights_B is not None:
            logits_NV = weigh_gradient(logits_NV, weights_B[row_N, None])
        logits_NV = logits_NV.log_softmax(-1)
        if (revealed_N := ids_N != self.mask_token_id).any():  # SUBS: a revealed token is copied
            copied_NV = F.one_hot(ids_N.clamp(max=logits_NV.shape[-1] - 1), logits_NV.shape[-1]).double().log()
            logits_NV = torch.where(revealed_N[:, None], copied_NV, logits_NV)
        hidden = None
        if output_hidden_states:
            ones_B = torch.ones(len(input_ids), dtype=torch.float64) if weights_B is None else weights_B
            hidden = (torch.stack([place_BL.double(), ones_B[:, None].expand(place_BL.shape)], dim=-1),)
        if labels is None:
            logits = F.pad(logits_NV, (0, 1), value=-torch.inf)
            logits = logits if positions is not None else logits.unflatten(0, input_ids.shape)
            return MaskedDiffusionOutput(logits=logits, hidden_states=hidden)
        labels_N = labels.flatten()[positions_N]
        nll_N = -logits_NV.gather(-1, labels_N.clamp(min=0)[:, None]).squeeze(-1)
        nll_N = nll_N.masked_fill(revealed_N | (labels_N == -100), 0.0)
        if loss_weights is None:
            loss = nll_N.mean()
        else:
            loss = (nll_N * loss_weights.expand(input_ids.shape).flatten()[positions_N]).sum()
        correct_N = logits_NV.argmax(-1) == labels_N if output_correct else None
        return MaskedDiffusionOutput(loss=loss, token_nll=nll_N, token_correct=correct_N, hidden_states=hidden)

    def _places(self, ids_BL: torch.Tensor, times_B: torch.Tensor | None) -> torch.Tensor:
        """(B, L) which of the D·T·Z·L distributions each position reads."""
        _, nodes, states, length, _ = self.logits_DTZLV.shape
        rows_B = self._each_reading(self.rows_B, len(ids_BL))
        place_B = torch.zeros(len(ids_BL), dtype=torch.int64) if rows_B is None else rows_B
        if self.times_T is not None:
            assert times_B is not None
            node_B = (times_B.double()[:, None] - self.times_T).abs().argmin(-1)
            place_B = place_B * nodes + node_B
        place_B = place_B * states + state_numbers(ids_BL, self.vocabulary)
        return place_B[:, None] * length + torch.arange(length)

    @staticmethod
    def _each_reading(values_B: torch.Tensor | None, rows: int) -> torch.Tensor | None:
        """As many as there are rows: an objective that reads a sequence twice has its readings side by side."""
        if values_B is None or len(values_B) == rows:
            return values_B
        return values_B.repeat_interleave(rows // len(values_B))


class TabularCausalModels(TabularDenoisers):
    """The same tables read from left to right: called as a causal LM is, on rows that begin with any one token.

    What comes before a token is the state whose other positions are masked.
    """

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> SimpleNamespace:  # type: ignore[override]
        """(B, 1 + L) ids, ``logits`` (B, 1 + L, V): that of column c predicts column c + 1, the last predicts nothing."""
        ids_BL, columns = input_ids[:, 1:], torch.arange(self.length)
        seen_BLL = torch.where(columns < columns[:, None], ids_BL[:, None], self.mask_token_id)
        states_BL = state_numbers(seen_BLL, self.vocabulary)
        rows_B = torch.zeros(len(ids_BL), dtype=torch.int64) if self.rows_B is None else self.rows_B
        place_BL = (rows_B[:, None] * self.logits_DTZLV.shape[2] + states_BL) * self.length + columns
        logits_BLV = F.embedding(place_BL, self.logits_DTZLV.flatten(0, -2))
        if self.gradient_weights_B is not None:
            logits_BLV = weigh_gradient(logits_BLV, self.gradient_weights_B[:, None, None])
        return SimpleNamespace(logits=F.pad(logits_BLV.log_softmax(-1), (0, 0, 0, 1)))


class TabularBlockDenoisers(TabularDenoisers):
    """The same tables read block by block: called as a model with diffusion blocks is, with the clean text beside.

    What a token is predicted from is the state with the clean tokens of the blocks before, what is shown of its own, and
    masks in those after.

    Args:
        logits_DTZLV: see :class:`TabularDenoisers`; T is 1.
        blocks_L: (L,) the block that each position is in.
        vocabulary: V; None: all columns.
    """

    def __init__(self, logits_DTZLV: torch.Tensor, blocks_L: np.ndarray, vocabulary: int | None = None) -> None:
        super().__init__(logits_DTZLV, vocabulary=vocabulary)
        self.blocks_L = torch.from_numpy(blocks_L)
        self._clean_BL = torch.empty(0)

    def forward(self, input_ids: torch.Tensor, clean_ids: torch.Tensor, **kwargs: Any) -> MaskedDiffusionOutput:  # type: ignore[override]
        """See ``MaskedDiffusionForMaskedLM.forward``."""
        kwargs.pop("answer_starts", None)  # the tables know where their blocks are
        self._clean_BL = clean_ids
        return super().forward(input_ids, **kwargs)

    def _places(self, ids_BL: torch.Tensor, times_B: torch.Tensor | None) -> torch.Tensor:
        own_L1, rows_B = self.blocks_L[:, None], self._each_reading(self.rows_B, len(ids_BL))
        clean_BL = self._clean_BL.repeat_interleave(
            len(ids_BL) // len(self._clean_BL), dim=0
        )  # read once for both masks
        seen_BLL = torch.where(self.blocks_L < own_L1, clean_BL[:, None], ids_BL[:, None])
        states_BL = state_numbers(seen_BLL.masked_fill(self.blocks_L > own_L1, self.mask_token_id), self.vocabulary)
        table_B = torch.zeros(len(ids_BL), dtype=torch.int64) if rows_B is None else rows_B
        states, length = self.logits_DTZLV.shape[2:4]
        return (table_B[:, None] * states + states_BL) * length + torch.arange(length)


class TabularRateHead(nn.Module):
    """The rate head of P3 for :class:`TabularDenoisers`: a rate for every distribution of the tables.

    Args:
        scores_X: (D·T·Z·L,) log s_hat = log (1 - t + t r_hat): 1 / (t s_hat) is the rate.
    """

    def __init__(self, scores_X: torch.Tensor) -> None:
        super().__init__()
        self.scores_X = nn.Parameter(scores_X.double())

    def forward(self, hidden_ND: torch.Tensor, t_N: torch.Tensor) -> torch.Tensor:
        """(N,) r_hat of the places that the hidden states name."""
        scores_N = weigh_gradient(self.scores_X[hidden_ND[:, 0].long()], hidden_ND[:, 1])
        return (scores_N.exp() - 1 + t_N) / t_N


def weigh_gradient(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The values as they are, with gradients multiplied by weights."""
    return values.detach() + weights * (values - values.detach())


def state_numbers(ids_BL: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """(...,) the number of each partly masked sequence (..., L), the mask being token V."""
    numbers = torch.zeros(ids_BL.shape[:-1], dtype=torch.int64)
    for ids in ids_BL.unbind(-1):
        numbers = numbers * (vocabulary + 1) + ids
    return numbers


def all_sequences(length: int, vocabulary: int) -> np.ndarray:
    """(V^L, L) int64, the last position changing fastest."""
    sequences = list(itertools.product(range(vocabulary), repeat=length))
    return np.array(sequences, dtype=np.int64).reshape(len(sequences), length)


def exact_conditionals(joint: np.ndarray) -> np.ndarray:
    """(V,) * L joint distribution to the (V + 1, ..., V + 1, L, V) table of p(x_i | revealed); V is the mask.

    A revealed position has its token with certainty.
    """
    length, vocabulary = joint.ndim, joint.shape[0]
    table = np.zeros((vocabulary + 1,) * length + (length, vocabulary))
    for sequence in itertools.product(range(vocabulary + 1), repeat=length):
        seen = tuple(slice(None) if x == vocabulary else slice(x, x + 1) for x in sequence)
        given = joint[seen] / joint[seen].sum()
        for i in range(length):
            others = tuple(j for j in range(length) if j != i)
            start = 0 if sequence[i] == vocabulary else sequence[i]
            marginal = given.sum(axis=others)
            table[sequence][i, start : start + len(marginal)] = marginal
    return table
