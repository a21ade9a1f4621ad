"""A clock that moves only when something is said to have taken time, and a book of what that was."""

from __future__ import annotations

from collections import Counter
from typing import Any

from transformers import Trainer, TrainerCallback

from hf_difflm.callbacks.reports import reports_of
from hf_difflm.runs.journal.schema import MeasurementRecord

COSTS = {"forward": 2.0, "data": 0.25, "evaluation": 3.0, "saving": 7.0, "sampling": 5.0}


class SpentTime(TrainerCallback):
    """Lets each thing a Trainer does cost what :data:`COSTS` say, and keeps the book between two measurements.

    ``measured`` has the published measurements, ``pages`` for each of them the seconds by name since the one before, and
    the ``tokens`` that went through the model in training.

    Args:
        costs: seconds that differ from :data:`COSTS`.
        sample_at: steps after which sampling takes time.
        page_a_log: turn the page at each log of a loss, also on a process where nothing is published.
    """

    def __init__(
        self, costs: dict[str, float] | None = None, sample_at: tuple[int, ...] = (), page_a_log: bool = False
    ) -> None:
        self.costs = COSTS | (costs or {})
        self.sample_at = sample_at
        self.now = 0.0
        self.book: Counter[str] = Counter()
        self.page_a_log = page_a_log
        self.measured: list[MeasurementRecord] = []
        self.pages: list[dict[str, float]] = []
        self._within = "data"  # what reads rows

    def spend(self, name: str) -> None:
        self.now += self.costs[name]
        self.book[name] += self.costs[name]

    def live_in(self, trainer: Trainer) -> None:
        """Let this clock run in a Trainer; ``time.perf_counter`` must be replaced by ``lambda: self.now``."""
        collate, save = trainer.data_collator, trainer._save_checkpoint

        def slow_collate(rows: Any) -> Any:
            self.spend(self._within)
            return collate(rows)

        def within(name: str, function: Any) -> Any:
            def reading(*args: Any, **kwargs: Any) -> Any:
                self._within = name
                try:
                    return function(*args, **kwargs)
                finally:
                    self._within = "data"

            return reading

        def slow_save(*args: Any, **kwargs: Any) -> None:
            save(*args, **kwargs)
            self.spend("saving")

        def forward(module: Any, args: Any, kwargs: Any) -> None:
            if module.training:
                self.spend("forward")
                self.book["tokens"] += kwargs["input_ids"].numel()

        trainer.data_collator, trainer._save_checkpoint = slow_collate, slow_save
        trainer.evaluate = within("evaluation", trainer.evaluate)
        # The best weights are kept with digests of the texts that they were evaluated on.
        trainer._determine_best_metric = within("saving", trainer._determine_best_metric)
        trainer.model.register_forward_pre_hook(forward, with_kwargs=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.now += 60.0  # trackers that start
        reports_of(state).listen(self._hear)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.sample_at:
            self.spend("sampling")
            reports_of(state).leave_out("sampling", self.costs["sampling"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.page_a_log and "loss" in logs:
            self._turn_page()

    def _hear(self, record: Any) -> None:
        self.measured.append(record)
        if not self.page_a_log:
            self._turn_page()

    def _turn_page(self) -> None:
        self.pages.append(dict(self.book))
        self.book.clear()
