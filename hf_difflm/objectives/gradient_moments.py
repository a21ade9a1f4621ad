"""How large the gradient of a hidden token is, by the share of its sequence that is hidden: measured in training, for free.

The head's gradient at the hidden states is made in every backward pass anyway. Of each hidden token its squared norm, divided
by the square of the weight that the token had in the loss, is a second moment; its mean over 16 bins of k / L says at which
rates gradients are large, and so how often each k is best drawn (`count_laws.py`). Other layers are not asked: what is taken
is that their gradients are as much larger.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .base import to_device
from .count_laws import MOMENT_BINS

FILE_NAME = "count_law.json"
_PERIOD = 32  # steps of which one measurement is made
_DELAY = 8  # steps later it counts: the host need not wait for a device that lags behind
_KEPT = 0.5  # of the older measurements
_ROUNDING = 32  # to this part of an octave: sums that are cut otherwise differ in their last digits
_LEAST = 1e-6


class GradientMoments:
    """Second moments of a hidden token's gradient by masking rate, smoothed over steps, the same on every process."""

    def __init__(self) -> None:
        self.moments: tuple[float, ...] = ()
        """(16,) with a mean of 1; () before anything is known."""
        self._of_step: torch.Tensor | None = None  # (2, 16): sums of squares, and of how many tokens
        self._of_period: torch.Tensor | None = None
        self._waiting: tuple[int, torch.Tensor, Any] | None = None

    def watch(
        self, rates_N: np.ndarray, weights_N: np.ndarray, num_scored: int | torch.Tensor, device: torch.device | str
    ) -> Callable[[torch.Tensor], None]:
        """What is to be called with the (N, D) gradient of a micro-batch at the hidden states of its N hidden tokens.

        Args:
            rates_N: (N,) k / L of the sequence of each.
            weights_N: (N,) its weight in the loss.
            num_scored: what the loss was divided by.
            device: where the gradient will be.
        """
        bins_N = np.ceil(rates_N * MOMENT_BINS).astype(int).clip(1, MOMENT_BINS) - 1
        share_2N = to_device(torch.from_numpy(np.stack([bins_N, weights_N])).float(), device)

        def note(gradient_ND: torch.Tensor) -> None:
            gradient_ND = gradient_ND.detach().float() * num_scored
            squares_N = gradient_ND.square().sum(-1) / share_2N[1].square()
            # A product, since sums by index are in no order on a GPU.
            in_bin_N16 = (share_2N[0].unsqueeze(-1) == torch.arange(MOMENT_BINS, device=share_2N.device)).float()
            found_216 = torch.stack([squares_N, torch.ones_like(squares_N)]) @ in_bin_N16
            self._of_step = found_216 if self._of_step is None else self._of_step + found_216

        return note

    def after_step(self, step: int) -> None:
        """Add up what all processes found in optimiser step ``step``; every 32 steps make moments of it.

        Raises:
            UserError: there was no gradient at the hidden states.
        """
        if self._of_step is None:
            raise UserError(
                "count_law optimal measures the gradient at the hidden states, but all that is trained comes after them; "
                "use another law, or train the backbone"
            )
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            torch.distributed.all_reduce(self._of_step)
        so_far = 0.0 if self._of_period is None else self._of_period.to(self._of_step.device)
        self._of_period = self._of_step + so_far
        self._of_step = None
        if step % _PERIOD == 0:
            event = None
            if self._of_period.is_cuda:
                on_host = torch.empty(self._of_period.shape, pin_memory=True)
                on_host.copy_(self._of_period, non_blocking=True)
                event = torch.cuda.Event()
                event.record()
            else:
                on_host = self._of_period.cpu()
            self._waiting, self._of_period = (step, on_host, event), None
        if self._waiting is not None and step >= self._waiting[0] + _DELAY:
            _, on_host, event = self._waiting
            if event is not None:
                event.synchronize()  # long past
            self._take(on_host.double().numpy())
            self._waiting = None

    def _take(self, sums_216: np.ndarray) -> None:
        squares_K, tokens_K = sums_216
        if not np.isfinite(squares_K).all() or not (squares_K > 0).any():
            return  # of a step that a scaler skipped, or that diverged
        before_K = np.array(self.moments or (1.0,) * MOMENT_BINS)
        known_K = tokens_K > 0
        mean_K = squares_K / np.maximum(tokens_K, 1)
        now_K = np.where(known_K, mean_K / mean_K[known_K].mean(), before_K)
        after_K = np.maximum(_KEPT * before_K + (1 - _KEPT) * now_K if self.moments else now_K, _LEAST)
        self.moments = tuple((2 ** (np.round(np.log2(after_K) * _ROUNDING) / _ROUNDING)).tolist())

    def save(self, folder: Path) -> None:
        """Write ``count_law.json``, with all that a resumed training needs to go on as if it had not stopped."""
        waiting = None if self._waiting is None else [self._waiting[0], self._waiting[1].tolist()]
        period = None if self._of_period is None else self._of_period.tolist()
        state = {"moments": self.moments, "period": period, "waiting": waiting}
        (folder / FILE_NAME).write_text(json.dumps(state) + "\n")

    def load(self, folder: Path) -> None:
        """Read it back.

        Raises:
            UserError: it is missing, or is no such file.
        """
        path = folder / FILE_NAME
        try:
            state = json.loads(path.read_text())
            self.moments = tuple(float(moment) for moment in state["moments"])
            period, waiting = state["period"], state["waiting"]
            self._of_period = None if period is None else torch.tensor(period)
            self._waiting = None if waiting is None else (int(waiting[0]), torch.tensor(waiting[1]), None)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} with the law that count_law optimal had measured cannot be read ({error}); resume from another "
                "checkpoint, or with the law that it was trained with"
            ) from None
