"""What a sampler is: it decides which masks are resolved now. Everything else is the loop's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from .generation_random import CONFIDENCE, RowDraws
from .logit_statistics import Predictions
from .noise_schedule import NoiseSchedule


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn, for samplers whose confidence depends on it.

    Args:
        temperature: 0 where the likeliest token is taken.
        top_k, top_p: which tokens may be drawn, after it.
        dtype: the model's type, in which it makes logits.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    dtype: torch.dtype = torch.float32


@dataclass
class Block:
    """The holes that are filled together, as a sampler sees them; NumPy, on the host.

    Args:
        masked_BL: bool, the holes that are masked now; the loop keeps it up to date, and clears finished rows.
        steps: steps there are for this block; a sampler counts them from 1.
        first_step: number of all steps before, so that no two blocks share random numbers.
        schedule: the model's noise schedule.
        draws: random numbers of each row.
        place_BL: number of each position in its row, padding apart.
        when_BL: a uniform number for each hole: the masking probability 1 - alpha(t) at which it is revealed.
        importance: (B, L) weights of positions or what makes them, see :class:`UncertaintySampler`.
        first_column: the column at which it begins; holes before it are those of a prompt, or left over.
        size: tokens of a diffusion block; None of a model without.
        drawing: how tokens are drawn.
    """

    masked_BL: np.ndarray
    steps: int
    first_step: int
    schedule: NoiseSchedule
    draws: RowDraws
    place_BL: np.ndarray
    when_BL: np.ndarray | None = None
    importance: torch.Tensor | Callable[[torch.Tensor], torch.Tensor] | None = None
    first_column: int = 0
    size: int | None = None
    drawing: Drawing = Drawing()
    step_BL: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.holes_BL = self.masked_BL.copy()
        self.total_B = self.holes_BL.sum(-1)

    def remaining(self) -> np.ndarray:
        """(B,) masks left in each row."""
        return self.masked_BL.sum(-1)

    def uniform(self, purpose: int, step: int, row_N: np.ndarray, column_N: np.ndarray) -> np.ndarray:
        """The random numbers of a purpose at some positions in a step of this block."""
        return self.draws.uniform(purpose, self.first_step + step, row_N, self.place_BL[row_N, column_N])


@dataclass
class Seen:
    """What the denoiser said at the positions a sampler looked at; row by row, columns rising.

    Args:
        predictions: under SUBS (but for samplers that draw masks), after guidance and the caller's processors, before
            temperature and truncation.
        tokens_N: a token drawn at each, for samplers that draw first; else None.
        ids_RL: the canvas of the rows that were looked at, masks at its padding.
        rows_R: which rows of the batch they are.
        row_N: which of them each position belongs to.
        column_N: its column in the canvas.
    """

    predictions: Predictions
    tokens_N: torch.Tensor | None
    ids_RL: torch.Tensor
    rows_R: np.ndarray
    row_N: np.ndarray
    column_N: np.ndarray

    @property
    def logits_NV(self) -> torch.Tensor:  # noqa: N802
        """(N, V) all logits, which may be made for this: what ``predictions`` has is cheaper."""
        return self.predictions.logits.made()

    def first(self, values_N: torch.Tensor, count_R: torch.Tensor) -> torch.Tensor:
        """(N,) bool: the ``count_R`` lowest values of each row; the left one of two that are equal."""
        order_RW, _ = self.ordered(values_N)
        rank_RW = torch.empty_like(order_RW)
        rank_RW.scatter_(-1, order_RW, torch.arange(order_RW.shape[-1], device=order_RW.device).expand_as(order_RW))
        row_N, place_N = self._cells(values_N.device)
        return rank_RW[row_N, place_N] < count_R.to(values_N.device)[row_N]

    def ordered(self, values_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Order within each row, lowest value first, and the sorted values; both (R, W), infinity after the last."""
        values_RW = self.by_row(values_N, float("inf"))
        order_RW = values_RW.argsort(dim=-1, stable=True)
        return order_RW, values_RW.gather(-1, order_RW)

    def by_row(self, values_N: torch.Tensor, fill: float) -> torch.Tensor:
        """(N,) to (R, W): the values of each row side by side, W the most there are."""
        row_N, place_N = self._cells(values_N.device)
        width = int(self._place_N.max()) + 1
        values_RW = values_N.new_full((len(self.rows_R), width), fill)
        values_RW[row_N, place_N] = values_N
        return values_RW

    def __post_init__(self) -> None:
        count_R = np.bincount(self.row_N, minlength=len(self.rows_R))
        self._place_N = np.arange(len(self.row_N)) - np.repeat(count_R.cumsum() - count_R, count_R)

    def _cells(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.row_N).to(device), torch.from_numpy(self._place_N).to(device)


@dataclass(frozen=True)
class Sampler:
    """Base class: the fields are the parameters, saved in ``generation_config.json``; there is no other state.

    In each step of :meth:`steps` the loop asks :meth:`look` where logits are wanted, forwards the rows that have such
    positions, asks :meth:`choose` which of them are revealed, draws their tokens, and masks what :meth:`remask` says.
    """

    name: ClassVar[str] = ""
    draws_first: ClassVar[bool] = False  # choose() sees a token drawn at every position it looked at
    redraws: ClassVar[bool] = True  # a position may be drawn more than once, or remasked
    every_row: ClassVar[bool] = False  # forward the rows that do not change too
    remasks: ClassVar[bool] = False
    draws_mask: ClassVar[bool] = False  # sees the mask token's logit too, and leaves a mask where it is drawn

    @property
    def paces_itself(self) -> bool:
        """Whether it says itself how many tokens a step reveals: the number of steps is then a limit and nothing else."""
        return False

    def start(self, block: Block) -> None:
        """Called once before the first step of a block."""

    def steps(self, block: Block) -> Iterable[int]:
        """The steps, of 1 to ``block.steps``, in which something can happen."""
        return range(1, block.steps + 1)

    def look(self, block: Block, step: int) -> np.ndarray:
        """(B, L) bool: where logits are wanted; only masked positions."""
        raise NotImplementedError

    def choose(self, block: Block, step: int, seen: Seen) -> torch.Tensor | None:
        """(N,) bool: which of the positions looked at are revealed; None is all."""
        return None

    def remask(self, block: Block, step: int) -> np.ndarray | None:
        """(B, L) bool: which revealed positions become masks again after this step; asked for before it."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """The parameters and the name of the sampler, as they are saved."""
        return {"sampler": self.name, **asdict(self)}


def check_reveal_schedule(schedule: str | Sequence[float]) -> None:
    """Raises ValueError where it is none of ``linear``, ``cosine`` and a list of weights."""
    if isinstance(schedule, str):
        if schedule not in ("linear", "cosine"):
            raise ValueError(f"reveal_schedule must be linear, cosine or a list of weights, got {schedule!r}")
    elif not schedule or any(not 0 <= weight < math.inf for weight in schedule) or not sum(schedule) > 0:
        raise ValueError(f"the weights of reveal_schedule must be 0 or more, and one of them above 0, got {schedule!r}")


def revealed_share(schedule: str | Sequence[float], step: int, steps: int) -> float:
    """Share of the tokens that is revealed after a step: 1 after the last."""
    if step >= steps:
        return 1.0
    if schedule == "linear":
        return step / steps
    if schedule == "cosine":  # MaskGIT's: few tokens at first (arXiv 2202.04200)
        return 1.0 - math.cos(0.5 * math.pi * step / steps)
    cumulative = np.concatenate([[0.0], np.cumsum(np.asarray(schedule, dtype=np.float64))])
    return float(
        np.interp(step / steps * (len(cumulative) - 1), np.arange(len(cumulative)), cumulative / cumulative[-1])
    )


def quota(schedule: str | Sequence[float], block: Block, step: int) -> np.ndarray:
    """(B,) tokens to reveal in this step so that a reveal schedule is kept, rounded up."""
    target_B = np.ceil(block.total_B * revealed_share(schedule, step, block.steps) - 1e-9).astype(np.int64)
    remaining_B = block.remaining()
    return (target_B - (block.total_B - remaining_B)).clip(0, remaining_B)


def least_tokens(block: Block, step: int) -> np.ndarray:
    """(B,) tokens a step must reveal at least, so that none is left after the last: 1 where there are steps enough."""
    return -(-block.remaining() // (block.steps - step + 1))


def gumbel_noise(block: Block, step: int, seen: Seen, like: torch.Tensor) -> torch.Tensor:
    """(N,) standard Gumbel numbers for the positions looked at, computed in float64."""
    uniform_N = block.uniform(CONFIDENCE, step, seen.rows_R[seen.row_N], seen.column_N)
    return torch.from_numpy(-np.log(-np.log(uniform_N))).to(like.device, like.dtype)
