"""Keeps in each checkpoint where its stream of training text goes on."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from .data_order import EpochSampler

_NAME = "StreamPosition"  # the Trainer keeps states by the name of the class


class StreamPosition(TrainerCallback, ExportableState):
    """Puts the position of a stream into ``trainer_state.json``, and takes it from there before the first batch.

    Args:
        dataset: the stream: ``position(index)``, ``restore(position)``.
        order: the order it is read in.
        optimiser_batch: sequences in an optimiser batch.
    """

    def __init__(self, dataset: Any, order: EpochSampler, optimiser_batch: int) -> None:
        self.dataset = dataset
        self.order = order
        self.optimiser_batch = optimiser_batch
        self._step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        states: Any = state.stateful_callbacks  # a mapping by now, whatever its annotation says
        saved = states.get(_NAME)
        position = saved["attributes"].get("position") if isinstance(saved, dict) else None
        if position is not None:
            self.dataset.restore(position)
        states[_NAME] = {}  # the Trainer replaces what is there under this name
        self._step = state.global_step

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        self._step = state.global_step

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into a checkpoint."""
        steps_per_epoch = len(self.order) // self.optimiser_batch
        index = self._step % steps_per_epoch * self.optimiser_batch
        return {"args": {}, "attributes": {"position": self.dataset.position(index)}}
