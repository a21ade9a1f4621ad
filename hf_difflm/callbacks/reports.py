"""How the callbacks of one Trainer tell each other what they have measured, and what time that took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import TrainerState

from ..runs.journal.schema import Record

_ATTRIBUTE = "_hf_difflm_reports"


@dataclass(frozen=True)
class GradientNorms:
    """The norms of the gradients of one optimiser step before clipping, (N,) float32 on the device, of these parameters."""

    step: int
    parameters: Sequence[torch.nn.Parameter]
    norms_N: torch.Tensor


class Reports:
    """The notice board of one training: records are put up on it, and whoever listens gets each of them.

    What measures (gradients, statistics, throughput, samples, alerts) publishes records of the run log; what keeps them
    (the run log, the trackers) listens. Neither knows the other, so each works in a Trainer that lacks the rest.

    Attributes:
        journal_path: the journal of this training; None where no run log is kept, and on other processes than world zero.
        ending: how the training will have ended, and why, where a callback stops it: ``("failed", sentence)``.
        unigram_entropy: of the training set's token frequencies, in nats per scored token; None where it is not known.
        gradient_norms: those of the newest step whose clipping has kept them; None where a Trainer does not tell.
    """

    def __init__(self) -> None:
        self.journal_path: Path | None = None
        self.ending: tuple[str, str] | None = None
        self.unigram_entropy: float | None = None
        self.gradient_norms: GradientNorms | None = None
        self._record_listeners: list[Callable[[Record], None]] = []
        self._time_listeners: list[Callable[[str, float], None]] = []

    def __reduce__(self) -> tuple[type[Reports], tuple[()]]:
        return Reports, ()  # a copy of a state, or its pickle, is no training that anybody listens to

    def listen(
        self,
        to_records: Callable[[Record], None] | None = None,
        to_left_out: Callable[[str, float], None] | None = None,
    ) -> None:
        """Call ``to_records(record)`` for what is published, ``to_left_out(what, seconds)`` for time that is no training."""
        if to_records is not None:
            self._record_listeners.append(to_records)
        if to_left_out is not None:
            self._time_listeners.append(to_left_out)

    def publish(self, record: Record) -> None:
        """Hand a record to all that listen; call it on world process zero alone."""
        for listener in self._record_listeners:
            listener(record)

    def leave_out(self, what: str, seconds: float) -> None:
        """Say that the last ``seconds`` on the training thread were no training but ``what``, e.g. ``sampling``."""
        for listener in self._time_listeners:
            listener(what, seconds)


def reports_of(state: TrainerState) -> Reports:
    """Return the board of the training that ``state`` belongs to; a Trainer makes a new state for each.

    Listen in ``on_train_begin``; publish in any later hook. The board is no field of the state: it is not saved with it.
    """
    board = vars(state).get(_ATTRIBUTE)
    if board is None:
        board = Reports()
        setattr(state, _ATTRIBUTE, board)
    return board
