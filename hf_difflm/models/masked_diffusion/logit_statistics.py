"""What is asked of distributions over the vocabulary - the likeliest token, a probability, doubt, a draw - from one pass.

The pass takes tiles of rows by columns that stay in a CPU's cache, keeps the maximum of each and sums relative to it, and
puts them together at the end in float64. A draw inverts the cumulative distribution twice: over the sums of the tiles, then
inside one of them. So logits need not exist: :class:`HeadLogits` makes each tile as a product with a part of the head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from .generation_random import draw_tokens, find, wide

TILE_ROWS, TILE_COLUMNS = 256, 1024  # float32: 1 MiB, what the L2 cache of a core holds
_LARGEST_TILE_ELSEWHERE = 2**27  # numbers; a GPU wants large operations
_MOST_MADE = 2**20  # logits that a CPU makes at once: with more of them, they leave its cache before they are used
_LEAST = -1000.0  # exp of it is 0 in float64 as well, and 0 times it no NaN


class Logits(Protocol):
    """(N, V) logits under SUBS, at least float32."""

    @property
    def shape(self) -> tuple[int, int]:
        """N and V."""

    def empty(self) -> torch.Tensor:
        """An empty tensor of their type, where they are."""

    def made(self) -> torch.Tensor:
        """(N, V) all of them."""

    def tile(self, rows: slice | torch.Tensor, columns: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        """Some rows and columns of them, not to be changed but in ``out``, where they may be put."""

    def at(self, tokens_N: torch.Tensor) -> torch.Tensor:
        """(N,) one of each row."""

    def select(self, rows: torch.Tensor) -> Logits:
        """Those of some rows, given by indices or a mask."""


@dataclass(frozen=True)
class MadeLogits:
    """Logits that exist."""

    logits_NV: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.logits_NV.shape[0], self.logits_NV.shape[1]

    def empty(self) -> torch.Tensor:
        return self.logits_NV.new_empty(0)

    def made(self) -> torch.Tensor:
        return self.logits_NV

    def tile(self, rows: slice | torch.Tensor, columns: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        return self.logits_NV[rows, columns]

    def at(self, tokens_N: torch.Tensor) -> torch.Tensor:
        return self.logits_NV.gather(-1, tokens_N.unsqueeze(-1)).squeeze(-1)

    def select(self, rows: torch.Tensor) -> MadeLogits:
        return MadeLogits(self.logits_NV[rows])


@dataclass(frozen=True)
class HeadLogits:
    """Logits of masked positions that are products of hidden states with the weight of a head, made when asked for.

    Args:
        hidden_ND: what the head reads, in the type of the weight.
        weight_VD, bias_V: of the head.
        mask_id: the column that has probability 0.
    """

    hidden_ND: torch.Tensor
    weight_VD: torch.Tensor
    bias_V: torch.Tensor | None
    mask_id: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.hidden_ND.shape[0], self.weight_VD.shape[0]

    def empty(self) -> torch.Tensor:
        return self.hidden_ND.new_empty(0)

    def made(self) -> torch.Tensor:
        return self.tile(slice(None), slice(0, self.shape[1]))

    def tile(self, rows: slice | torch.Tensor, columns: slice, out: torch.Tensor | None = None) -> torch.Tensor:
        tile_RC = torch.mm(self.hidden_ND[rows], self.weight_VD[columns].T, out=out)
        if self.bias_V is not None:
            tile_RC += self.bias_V[columns]
        if columns.start <= self.mask_id < columns.stop:
            tile_RC[:, self.mask_id - columns.start] = float("-inf")
        return tile_RC

    def at(self, tokens_N: torch.Tensor) -> torch.Tensor:
        logits_N = torch.linalg.vecdot(self.hidden_ND, self.weight_VD[tokens_N])
        if self.bias_V is not None:
            logits_N += self.bias_V[tokens_N]
        return logits_N.masked_fill(tokens_N == self.mask_id, float("-inf"))

    def select(self, rows: torch.Tensor) -> HeadLogits:
        return replace(self, hidden_ND=self.hidden_ND[rows])


def may_delay_head(denoiser: Any, positions: int) -> bool:
    """Whether to ask a denoiser for what its head reads at so many positions, and not for logits.

    That is worth it on a CPU, in the type of the weight and where the logits would not stay in its cache. A model whose
    class has another ``forward``, or that has hooks, may do something to the logits, which has to be seen.
    """
    owner = next((kind for kind in type(denoiser).__mro__ if "forward" in vars(kind)), object)
    return (
        vars(owner).get("delays_head", False)
        and "forward" not in vars(denoiser)
        and not (denoiser._forward_hooks or denoiser._forward_pre_hooks)
        and denoiser.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
        and positions * denoiser.config.vocab_size > _MOST_MADE
    )


def logits_of(denoiser: Any, output: Any) -> Logits:
    """The logits of an output of a denoiser, in which the head may be delayed."""
    if output.logits is None:
        head = denoiser.lm_head
        return HeadLogits(output.head_inputs, head.weight, head.bias, denoiser.config.mask_token_id)
    return MadeLogits(output.logits if output.logits.dtype == torch.float64 else output.logits.float())


@dataclass(frozen=True)
class _Pass:
    """What is kept of each row and tile.

    Args:
        temperature: at which tokens are drawn.
        best_N: the likeliest token.
        max_NK: the largest logit of a tile.
        sums: (N, K) sums over a tile, of e = exp(logit - its largest): ``sum`` of e, ``heat`` of e at the temperature,
            and where asked for ``energy`` of e (logit - its largest), ``square`` of e squared; ``second``, (N,), is the
            second largest logit.
    """

    temperature: float
    best_N: torch.Tensor
    max_NK: torch.Tensor
    sums: dict[str, torch.Tensor]

    def select(self, rows: torch.Tensor) -> _Pass:
        sums = {name: values[rows] for name, values in self.sums.items()}
        return _Pass(self.temperature, self.best_N[rows], self.max_NK[rows], sums)

    def below(self) -> torch.Tensor:
        """(N, K) how far the largest logit of a tile is below that of its row, in float64."""
        max_NK = wide(self.max_NK)
        return (max_NK - max_NK.amax(-1, keepdim=True)).clamp(min=_LEAST)

    def total(self, name: str = "sum", power: int = 1) -> torch.Tensor:
        """(N,) one of the sums over all tiles, relative to the largest logit of the row, in float64."""
        return (wide(self.sums[name]) * (power * self.below()).exp()).sum(-1)


class Predictions:
    """Distributions over the vocabulary at N positions. What was computed is kept.

    Probabilities and doubts are in the type of the logits: what differs by less than its rounding is equal.

    Args:
        logits: (N, V) logits under SUBS, a tensor or yet to be made.
    """

    def __init__(self, logits: Logits | torch.Tensor) -> None:
        self.logits: Logits = MadeLogits(logits) if isinstance(logits, torch.Tensor) else logits
        self._pass: _Pass | None = None

    def select(self, rows: torch.Tensor) -> Predictions:
        """Those of some rows, given by indices or a mask."""
        selected = Predictions(self.logits.select(rows))
        selected._pass = None if self._pass is None else self._pass.select(rows)
        return selected

    def largest(self) -> torch.Tensor:
        """(N,) the largest logit; no finite number where there is no distribution."""
        if self._pass is None and isinstance(self.logits, MadeLogits):
            return self.logits.logits_NV.amax(-1)
        return self._passed().max_NK.amax(-1)

    def best(self) -> torch.Tensor:
        """(N,) the likeliest token; the first of several."""
        if self._pass is None and isinstance(self.logits, MadeLogits):
            return self.logits.logits_NV.argmax(-1)
        return self._passed().best_N

    def log_probability(self, tokens_N: torch.Tensor) -> torch.Tensor:
        """(N,) log-probability of a token of each, in nats."""
        passed = self._passed()
        max_N = passed.max_NK.amax(-1)
        logit_N = max_N.where(tokens_N == passed.best_N, self.logits.at(tokens_N))
        return logit_N - max_N - passed.total().to(max_N.dtype).log()

    def largest_probability(self) -> torch.Tensor:
        """(N,) probability of the likeliest token."""
        passed = self._passed()
        return passed.total().reciprocal().to(passed.max_NK.dtype)

    def margin(self) -> torch.Tensor:
        """(N,) probability of the likeliest token less that of the second likeliest."""
        passed = self._passed("second")
        second_N = (passed.sums["second"] - passed.max_NK.amax(-1)).exp()
        return ((1 - second_N) / passed.total()).to(second_N.dtype)

    def entropy(self) -> torch.Tensor:
        """(N,) entropy in nats; a token without probability counts 0."""
        passed = self._passed("energy")
        below_NK, total_N = passed.below(), passed.total()
        energy_N = ((wide(passed.sums["sum"]) * below_NK) * below_NK.exp()).sum(-1) + passed.total("energy")
        return (total_N.log() - energy_N / total_N).to(passed.max_NK.dtype)

    def sum_of_squares(self) -> torch.Tensor:
        """(N,) sum of the squared probabilities."""
        passed = self._passed("square")
        return (passed.total("square", power=2) / passed.total().square()).to(passed.max_NK.dtype)

    def draw(
        self,
        uniform_N: torch.Tensor,
        temperature: float = 1.0,
        cut: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """(N,) tokens, by inverting the cumulative distribution.

        Args:
            uniform_N: float64 numbers from 0 to 1, on any device.
            temperature: what the logits are divided by.
            cut: is given the indices of some rows and their logits after that, and returns those to draw from.
        """
        is_made, columns = isinstance(self.logits, MadeLogits), self._columns
        if cut is not None:
            device = self.logits.empty().device
            most = _MOST_MADE if device.type == "cpu" else _LARGEST_TILE_ELSEWHERE
            some = torch.arange(len(uniform_N), device=device).split(max(1, most // self.logits.shape[1]))
            cut_ones = (cut(rows, _cooled(self.logits.select(rows).made(), temperature)) for rows in some)
            return torch.cat([draw_tokens(*one) for one in zip(cut_ones, uniform_N.split(len(some[0])), strict=True)])
        if columns == self.logits.shape[1] or (is_made and self._pass is None):
            return draw_tokens(_cooled(self.logits.made(), temperature), uniform_N)
        passed = self._passed("heat", temperature)
        mass_NK = passed.sums["heat"].double() * (passed.below() / temperature).exp()
        tile_N, rest_N = find(mass_NK, uniform_N)
        tokens_N = tile_N * columns
        for number in tile_N.unique().tolist():
            rows = (tile_N == number).nonzero().squeeze(-1)
            logits_RC = self.logits.tile(rows, self._tile(number))
            tokens_N[rows] += draw_tokens(_cooled(logits_RC, temperature), rest_N[rows])
        return tokens_N

    @property
    def _columns(self) -> int:
        vocabulary = self.logits.shape[1]
        return min(vocabulary, TILE_COLUMNS) if self.logits.empty().device.type == "cpu" else vocabulary

    def _tile(self, number: int) -> slice:
        begin = number * self._columns
        return slice(begin, min(begin + self._columns, self.logits.shape[1]))

    def _passed(self, wanted: str = "sum", temperature: float | None = None) -> _Pass:
        """The pass over the logits: the one that was, where it has what is wanted."""
        last = self._pass
        if last is None:
            last = self._pass = self._take({wanted}, temperature or 1.0)
        elif wanted not in last.sums or temperature not in (None, last.temperature):
            last = self._pass = self._take({*last.sums, wanted}, temperature or last.temperature)
        return last

    def _take(self, wanted: set[str], temperature: float) -> _Pass:
        (rows, vocabulary), empty = self.logits.shape, self.logits.empty()
        tiles = -(-vocabulary // self._columns)
        at_once = TILE_ROWS if empty.device.type == "cpu" else max(1, _LARGEST_TILE_ELSEWHERE // vocabulary)
        max_NK = empty.new_empty(rows, tiles)
        sums = {name: torch.empty_like(max_NK) for name in wanted | {"sum"}}
        best_N = torch.zeros(rows, dtype=torch.long, device=empty.device)
        largest_N, second_N = (empty.new_full((rows,), float("-inf")) for _ in range(2))
        buffer = empty.new_empty(min(at_once, rows) * self._columns)
        for begin in range(0, rows, at_once):
            here = slice(begin, min(begin + at_once, rows))
            for number in range(tiles):
                where = self._tile(number)
                width = where.stop - where.start
                scratch_RC = buffer[: (here.stop - begin) * width].view(-1, width)
                tile_RC = self.logits.tile(here, where, scratch_RC)
                max_R = max_NK[here, number] = tile_RC.amax(-1)
                if tiles == 1:  # a GPU need not be waited for
                    best_N[here] = tile_RC.argmax(-1)
                    if "second" in wanted:
                        second_N[here] = tile_RC.topk(2).values[:, 1]
                else:
                    if "second" in wanted:
                        _raise_second(second_N[here], largest_N[here], max_R, tile_RC)
                    _raise_best(best_N[here], largest_N[here], max_R, tile_RC, where.start)
                # -inf less -inf is no number, but a tile without probability is nothing.
                base_R1 = max_R.clamp(min=torch.finfo(max_R.dtype).min).unsqueeze(-1)
                below_RC = torch.sub(tile_RC, base_R1, out=scratch_RC)
                if "heat" in wanted and temperature != 1:
                    sums["heat"][here, number] = (below_RC / temperature).exp_().sum(-1)
                if "energy" in wanted:
                    e_RC = below_RC.clamp_(min=_LEAST).exp()
                    sums["energy"][here, number] = torch.linalg.vecdot(e_RC, below_RC)
                else:
                    e_RC = below_RC.exp_()
                sums["sum"][here, number] = e_RC.sum(-1)
                if "square" in wanted:
                    sums["square"][here, number] = torch.linalg.vecdot(e_RC, e_RC)
        if "heat" in wanted and temperature == 1:
            sums["heat"] = sums["sum"]
        if "second" in wanted:
            sums["second"] = second_N
        return _Pass(temperature, best_N, max_NK, sums)


def _raise_best(
    best_R: torch.Tensor, largest_R: torch.Tensor, max_R: torch.Tensor, tile_RC: torch.Tensor, begin: int
) -> None:
    """Put the first token of a tile's largest logit where that is above all before; in place."""
    rows = (max_R > largest_R).nonzero().squeeze(-1)
    if len(rows):  # of many tiles few: looking for the place of a maximum costs more than finding it
        best_R[rows] = tile_RC[rows].argmax(-1) + begin
        largest_R[rows] = max_R[rows]


def _raise_second(second_R: torch.Tensor, largest_R: torch.Tensor, max_R: torch.Tensor, tile_RC: torch.Tensor) -> None:
    """The second largest of all logits up to those of a tile; ``largest_R`` is of those before it. In place."""
    rows = (max_R > second_R).nonzero().squeeze(-1)
    if len(rows):
        best_two = tile_RC[rows].topk(min(2, tile_RC.shape[1])).values
        all_seen = torch.cat([largest_R[rows, None], second_R[rows, None], best_two], dim=-1)
        second_R[rows] = all_seen.topk(2).values[:, 1]


def _cooled(logits_RC: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits_RC if temperature == 1 else logits_RC / temperature


__all__ = ["HeadLogits", "Logits", "MadeLogits", "Predictions", "logits_of", "may_delay_head"]
