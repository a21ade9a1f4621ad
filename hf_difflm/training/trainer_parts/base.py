"""What the parts of :class:`DiffusionTrainer` know of each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from ...evaluation.likelihood.evaluate import LikelihoodResult
from ...objectives import Objective
from ...runs.journal.checkpoints import newest_good
from ..arguments import DiffusionTrainingArguments
from ..data_order import EpochSampler
from ..ema import ExponentialMovingAverage
from ..launch.shards import reshard, weights_are_finite
from ..schedule_free import ScheduleFreeAverage
from .evaluated_sets import Evaluated, OfSets
from .flow import TrainingDiverged
from .window import MetricsWindow


class TrainerPart(Trainer):
    """A ``transformers.Trainer`` with the attributes that :class:`DiffusionTrainer` sets and all its parts read."""

    args: DiffusionTrainingArguments
    _keeps_documents_apart: bool
    model: Any
    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    training_objective: Objective
    ema: ExponentialMovingAverage | None
    _average: ExponentialMovingAverage | ScheduleFreeAverage | None
    """What is evaluated in place of the weights that are trained; None where those are."""
    last_evaluation: LikelihoodResult | None
    _evaluated: dict[str, Evaluated]
    """The last evaluation by the prefix of its metrics: ``eval``, ``eval_NAME`` of one of several sets."""
    _of_sets: OfSets
    _objective_given: bool
    """Whether the objective was passed, rather than made of the arguments."""
    _before_search: DiffusionTrainingArguments | None
    """The arguments that all trials of the search under way vary."""
    _window: MetricsWindow
    _clock_started: bool
    _train_order: EpochSampler | None
    _peak: float | None
    _resumed_from: Path | None

    @property
    def _folder(self) -> Path:
        return Path(self.args.output_dir or "")

    def _diverged(self, what: str) -> None:
        good, _ = newest_good(self._folder)
        where = f"the last good checkpoint is {good}" if good else "no checkpoint was saved before"
        raise TrainingDiverged(f"{what}, so the run was stopped; {where}; try a lower learning rate or more warm-up")

    def _check_weights(self) -> None:
        """Nothing that is not finite is ever saved."""
        networks = self.training_objective.networks
        broken = not weights_are_finite(self.model) or not (networks is None or weights_are_finite(networks))
        if self.accelerator.num_processes > 1:  # each may hold another share of them
            broken = bool(self.accelerator.reduce(torch.tensor(float(broken), device=self.args.device), "sum") > 0)
        if broken:
            self._diverged(f"the weights stopped being finite by step {self.state.global_step}")

    def _tell_logs(self, what: str, *words: str) -> None:
        """Tell every callback that keeps a log how the run ends: ``mark`` or ``close`` it."""
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, what) and hasattr(callback, "on_training_iterations"):
                getattr(callback, what)(*words)

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        """Inside the block the model has the weights that evaluation and ``best/`` use: the average, if there is one."""
        with nullcontext() if self._average is None else self._average.swapped_in():
            yield
        reshard(self.model)

    def _load_best_weights(self, best: Path) -> None:
        self._load_from_checkpoint(str(best))
