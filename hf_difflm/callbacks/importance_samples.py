"""Let an importance estimator read the same text again and again while it learns."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UserError
from ..runs.dashboard.importance_map import importance_record
from .reports import reports_of

logger = logging.getLogger(__name__)

_MOST_MAPS = 200


class ImportanceSamplesCallback(TrainerCallback):
    """Publish how important each token of one text is, as the dashboard draws it, every ``interval`` steps.

    At the first log, at the first log of each further ``interval`` steps and at the last one; of a long training at about
    200 logs. It reads where the log has just waited for the device, takes no random number and no gradient, and changes
    nothing. Every process reads, since sharded embeddings need all of them; world zero publishes a
    :class:`MeasurementRecord` of the source ``importance``, see
    :func:`~hf_difflm.runs.dashboard.importance_map.importance_record`. Special tokens are left out.

    Args:
        read: called with the model; returns the importance of each token of the text, (L,) from 0 to 1. It must leave
            the random generators as they are.
        ids: (L,) the tokens of the text.
        interval: optimiser steps between readings.
        tokenizer: instead of the Trainer's ``processing_class``.

    Raises:
        UserError: an argument out of its range.
    """

    def __init__(
        self, read: Callable[[Any], Iterable[float]], ids: Sequence[int], interval: int = 50, tokenizer: Any = None
    ) -> None:
        if interval < 1:
            raise UserError(f"interval is {interval}; give a number of steps of at least 1")
        self.read = read
        self.ids = [int(one) for one in ids]
        self.interval = interval
        self.tokenizer = tokenizer
        self._texts: dict[int, str] | None = None
        self._every = interval
        self._begun: int | None = None
        self._read_step: int | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        self._every = max(self.interval, -(-state.max_steps // _MOST_MAPS))
        # A resumed run reads where it would have read had it not stopped: DiffusionTrainer logs before it saves.
        self._begun = state.global_step // self._every if state.global_step else None
        self._read_step = None
        tokenizer = self.tokenizer or processing_class
        self._texts = None
        if callable(getattr(tokenizer, "decode", None)):
            special = set(getattr(tokenizer, "all_special_ids", ()))
            self._texts = {one: tokenizer.decode([one]) for one in dict.fromkeys(self.ids) if one not in special}
        if not self._texts and state.is_world_process_zero:
            logger.warning("the importance of no text is shown: the Trainer has no tokenizer, or the text no token")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        step = state.global_step
        if not self._texts or "loss" not in (logs or {}) or "train_runtime" in (logs or {}) or step == self._read_step:
            return
        due = step // self._every
        if due == self._begun and step < state.max_steps:
            return
        start = time.perf_counter()
        self._begun, self._read_step = due, step
        values = self.read(model)
        if state.is_world_process_zero:
            kept = [(self._texts[one], float(v)) for one, v in zip(self.ids, values, strict=True) if one in self._texts]
            tokens, shares = zip(*kept, strict=True)
            reports_of(state).publish(importance_record(step, tokens, shares))
        reports_of(state).leave_out("importance", time.perf_counter() - start)
