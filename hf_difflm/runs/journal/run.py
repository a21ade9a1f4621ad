"""A run as it is read back: the records of its journal, those of abandoned attempts left out."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...errors import UserError
from .append_only import seems_abandoned
from .quantities import HIGHER, LOWER, MEASURED, evaluation_quantity, loss_unit
from .schema import (
    COUNTS,
    EPOCHS,
    RUNNING,
    STATUS_OF_EVENT,
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    MeasurementRecord,
    Record,
    RunRecord,
    SampleRecord,
    StepRecord,
)
from .steps import Steps
from .tables import ago

if TYPE_CHECKING:
    import pandas

DEAD = "dead"
"""What people are told of a run that counts as running, though nobody trains it: it was killed."""
NOT_SAID = "not said"
"""What they are told where the log of another program does not say whether the training has ended."""

_NLL = "eval_nll"
_OF_A_SET = re.compile(r"eval_(.+)_runtime")
_LOSS_OF_A_SET = re.compile(r"eval_(.+)_(?:nll|loss)")
_HEADLINES = (_NLL, "eval_loss")
_TEST = "test"
_Stepped = TypeVar("_Stepped", EvaluationRecord, CheckpointRecord, SampleRecord, MeasurementRecord)


@dataclass
class Run:
    """One run and everything its log says.

    Attributes:
        path: the journal or document it was read from.
        headers: one header an attempt, the first attempt first; never empty.
        steps: the step rows in the order of training, kept as columns.
        evaluations, checkpoints, samples, measurements: in the order of training.
        events: all of them, those of earlier attempts too.
        damaged_lines: lines of the journal that could not be read.
        epoch_losses: mean loss of each epoch (from 1), where a log says it instead of the epoch of each step.
        headline_set: of several evaluation sets the one whose metrics stand for the run, where no metric has chosen it: the
            first that was evaluated.
        on_test: whether ``evaluations`` are that of the test alone, see :meth:`quoting_test`.
    """

    path: Path
    headers: list[RunRecord]
    steps: Steps = field(default_factory=lambda: Steps.from_records([]))
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    checkpoints: list[CheckpointRecord] = field(default_factory=list)
    samples: list[SampleRecord] = field(default_factory=list)
    measurements: list[MeasurementRecord] = field(default_factory=list)
    events: list[EventRecord] = field(default_factory=list)
    damaged_lines: int = 0
    epoch_losses: dict[int, float] = field(default_factory=dict)
    headline_set: str | None = None
    on_test: bool = False

    @classmethod
    def from_records(
        cls, path: Path, records: Iterable[Record | Steps], damaged_lines: int = 0, headline_set: str | None = None
    ) -> Run | None:
        """Fold the records of a journal; None where no header is among them. ``headline_set`` is known of earlier ones.

        After an event ``resumed`` from step N, what earlier attempts did beyond N is superseded and left out.
        """
        run = cls(path, headers=[], damaged_lines=damaged_lines, headline_set=headline_set)
        parts: list[Steps] = []
        single: list[StepRecord] = []
        for record in records:
            if isinstance(record, StepRecord):
                single.append(record)
                continue
            if single and (isinstance(record, Steps) or _is_resume(record)):
                parts.append(Steps.from_records(single))
                single = []
            if isinstance(record, Steps):
                parts.append(record)
            elif isinstance(record, EvaluationRecord):
                run._add_evaluation(record)
            elif isinstance(record, CheckpointRecord):
                run.checkpoints.append(record)
            elif isinstance(record, SampleRecord):
                run.samples.append(record)
            elif isinstance(record, MeasurementRecord):
                run.measurements.append(record)
            elif isinstance(record, RunRecord):
                run.headers.append(record)
            elif isinstance(record, EventRecord):
                run.events.append(record)
                if _is_resume(record):
                    step = record.resumed_from_step or 0
                    parts = [part.up_to(step) for part in parts]
                    run._supersede_beyond(step)
        run.steps = Steps.concatenate([*parts, Steps.from_records(single)] if single or not parts else parts)
        return run if run.headers else None

    def _add_evaluation(self, record: EvaluationRecord) -> None:
        """Add an evaluation; those of several sets at one step are one, in which each has its metrics under its name.

        The set that chooses the best weights stands for the run: what it has as ``eval_NAME_nll`` is there as ``eval_nll``,
        too. Where no metric says which, as in the log of a stock Trainer, it is the first set with a loss.
        """
        sets = _sets_of(record)
        last = self.evaluations[-1] if self.evaluations else None
        if last is not None and sets and last.iter == record.iter and _sets_of(last):
            last.metrics.update(record.metrics)
            last.nonfinite = [*last.nonfinite, *record.nonfinite]
            record = last
        else:
            self.evaluations.append(record)
        metric = (
            f"eval_{str(self.config.get('metric_for_best_model') or '').removeprefix('eval_')}" if self.headers else ""
        )
        chosen = [name for name in sets if metric.startswith(f"eval_{name}_")]
        if chosen:
            _put_in_front(record, max(chosen, key=len))
        elif not any(name in record.metrics for name in _HEADLINES) or self.headline_set in sets:
            scored = _scored_sets(record)
            own = any(name in other.metrics for other in self.evaluations for name in _HEADLINES)
            if self.headline_set is None and scored and not own:  # else they are sets beside that of the run
                self.headline_set = scored[0]
            if self.headline_set in scored:
                _put_in_front(record, self.headline_set)

    def _supersede_beyond(self, step: int) -> None:
        self.evaluations = _up_to(step, self.evaluations)
        self.checkpoints = _up_to(step, self.checkpoints)
        self.samples = _up_to(step, self.samples)
        self.measurements = _up_to(step, self.measurements)

    @property
    def header(self) -> RunRecord:
        """The header of the latest attempt."""
        return self.headers[-1]

    @property
    def name(self) -> str:
        """Name of the run, the same for all attempts."""
        return self.headers[0].run_name

    @property
    def experiment_name(self) -> str:
        """What the metrics file is called after: the experiment, or else the run."""
        return self.headers[0].experiment_name or self.name

    @property
    def parent_run(self) -> str | None:
        """Id or path of the run whose weights this one began with; None where it began with its own."""
        return self.headers[0].parent_run

    @property
    def objective(self) -> str | None:
        """``mdlm``, ``ar``, ...; None where a stock Trainer did not say."""
        return self.header.objective

    @property
    def bound(self) -> str | None:
        """``"nelbo"`` or ``"exact"``: what the evaluation nll is, by the header or else by the evaluations."""
        if self.header.bound is not None or not self.evaluations:
            return self.header.bound
        return self.evaluations[-1].metrics.get("eval_bound")

    @property
    def loss_unit(self) -> str:
        """Unit of loss and evaluation: ``"nats/token"``; empty where a Trainer minimises something else, or does not say."""
        return loss_unit(self.objective, self.bound, {name for record in self.evaluations for name in record.metrics})

    @property
    def headline_note(self) -> str:
        """Say which of several evaluation sets stands for the run, where it is the first; else nothing."""
        if self.headline_set is None or self.on_test:
            return ""
        sets = dict.fromkeys(name for record in self.evaluations for name in _scored_sets(record))
        if len(sets) < 2:
            return f"its evaluations are of the set {self.headline_set}"
        return f"its evaluations are of {self.headline_set}, the first of the sets {', '.join(sets)}"

    @property
    def step_word(self) -> str:
        """What its rows and evaluations are counted in: ``step``, or ``epoch`` where another program counts no steps."""
        return "epoch" if self.header.metadata.get(COUNTS) == EPOCHS else "step"

    @property
    def minimises_no_bound(self) -> bool:
        """Whether training minimised another weighting of the cross-entropies than that of a bound."""
        minimised = self.header.metadata.get("train_objective")
        return isinstance(minimised, str) and "+" in minimised

    @property
    def training_loss_label(self) -> str:
        """What stands beside a training loss: its unit; or that it is a weighted one, which is no bound on anything."""
        if self.minimises_no_bound:
            return "weighted loss"
        return f"loss ({self.loss_unit})" if self.loss_unit else "loss"

    @property
    def nll_name(self) -> str:
        """What the number that evaluations are ranked by is: an ``nll``, or the ``loss`` of another Trainer."""
        return "nll" if self.loss_unit else "loss"

    @property
    def config(self) -> dict[str, Any]:
        """The settings of the latest attempt."""
        return self.header.config

    @property
    def status(self) -> str:
        """``running``, ``completed``, ``interrupted`` or ``failed``; a killed process could not say: ``running``."""
        statuses = (STATUS_OF_EVENT.get(event.event) for event in reversed(self.events))
        return next((status for status in statuses if status), RUNNING)

    @property
    def killed(self) -> bool:
        """Whether it counts as running, but nobody has its journal open; see :func:`.append_only.seems_abandoned`."""
        is_journal = self.path.suffix == ".jsonl" and self.path.is_file() and self._says_how_it_goes
        return is_journal and self.status == RUNNING and seems_abandoned(self.path, self.header.metadata.get("machine"))

    @property
    def shown_status(self) -> str:
        """The status for people: also which runs are ``dead``, and of which the log does not say it."""
        if not self._says_how_it_goes:
            return NOT_SAID
        return DEAD if self.killed else self.status

    @property
    def death(self) -> str | None:
        """What is known of the end of a run that could not say it: ``dead at step 20, last sign 3 h ago``; else None."""
        if not self.killed:
            return None
        # Not the time of the file, which may be a copy.
        sign = max((_seconds(moment) for moment in self._last_times if moment), default=self.path.stat().st_mtime)
        return f"{DEAD} at step {self.last_step:,}, last sign {ago(time.time() - sign)}"

    @property
    def last_step(self) -> int:
        """The last optimiser step that the log knows of; 0 before the first."""
        rows = self.column("iter")[-1:].astype(int).tolist()
        return max([*rows, *(record.iter for record in self.evaluations)], default=0)

    @property
    def _says_how_it_goes(self) -> bool:
        return any(event.event in STATUS_OF_EVENT for event in self.events)

    @property
    def _last_times(self) -> list[str]:
        """When the last record of each kind was written, as ISO 8601."""
        kinds = (self.steps, self.evaluations, self.checkpoints, self.samples, self.measurements, self.events)
        return [kind[-1].time for kind in kinds if len(kind)]

    @property
    def start_time(self) -> str | None:
        """When the first attempt began, as ISO 8601."""
        return self.headers[0].time or None

    @property
    def end_time(self) -> str | None:
        """When the run completed, failed or was interrupted; None while it is running."""
        last = next((event for event in reversed(self.events) if event.event in STATUS_OF_EVENT), None)
        return last.time if last is not None and self.status != RUNNING else None

    @property
    def lowest_evaluation(self) -> EvaluationRecord | None:
        """The evaluation with the lowest nll, the earliest of equals."""
        known = [evaluation for evaluation in self.evaluations if evaluation.nll is not None]
        return min(known, key=lambda evaluation: evaluation.nll or 0.0, default=None)

    @property
    def best_metric(self) -> str:
        """What chose ``best/``: ``metric_for_best_model`` as it was given; ``eval_nll`` where its direction is not known."""
        name = str(self.config.get("metric_for_best_model") or "loss")
        return _NLL if name.removeprefix("eval_") in ("loss", "nll") or self._sign_of(name) is None else name

    @property
    def best_evaluation(self) -> EvaluationRecord | None:
        """The evaluation whose weights ``best/`` holds: with the lowest nll, or the best :attr:`best_metric`."""
        sign, name = self._sign_of(self.best_metric), f"eval_{self.best_metric.removeprefix('eval_')}"
        if self.best_metric == _NLL or sign is None:
            return self.lowest_evaluation
        known = [e for e in self.evaluations if e.nll is not None and e.number(name) is not None]
        return min(known, key=lambda e: sign * (e.number(name) or 0.0), default=self.lowest_evaluation)

    @property
    def test_evaluation(self) -> EvaluationRecord | None:
        """What the weights in ``best/`` have on text that was held out for the test; None where nobody looked."""
        best = self.best_evaluation
        for record in reversed(self.measurements):
            if record.source == _TEST and best is not None and record.iter == best.iter:
                metrics = {f"eval_{name.removeprefix('test/')}": value for name, value in record.metrics.items()}
                return EvaluationRecord(time=record.time, iter=record.iter, metrics=metrics)
        return None

    def quoting_test(self) -> Run:
        """Return the run with its test as its only evaluation, for whoever quotes the best; itself where there is none."""
        test = None if self.on_test else self.test_evaluation
        return self if test is None else replace(self, evaluations=[test], on_test=True)

    def _sign_of(self, metric: str) -> int | None:
        """1 where less of a metric is better, -1 where more is; None where neither table nor settings say."""
        known, greater = evaluation_quantity(metric), self.config.get("greater_is_better")
        better = known.better if known is not None else None
        if better is None and isinstance(greater, bool):
            better = HIGHER if greater else LOWER
        return {LOWER: 1, HIGHER: -1}.get(better or "")

    @property
    def final_evaluation(self) -> EvaluationRecord | None:
        """The last evaluation that has an nll."""
        return next((evaluation for evaluation in reversed(self.evaluations) if evaluation.nll is not None), None)

    @property
    def source_nll(self) -> float | None:
        """Nats per token of the source itself on the evaluation blocks, where it is known."""
        value = self.header.data.get("source_nll")
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def tokens_seen(self) -> int | None:
        """Scored tokens of all steps."""
        known = self.column("tokens_seen")
        known = known[~np.isnan(known)]
        if len(known):
            return int(known[-1])
        return next((record.tokens_seen for record in reversed(self.evaluations) if record.tokens_seen), None)

    @property
    def tokens_per_sec(self) -> float | None:
        """Scored tokens per second of training: the mean of the rows weighted by their time."""
        rates, times = self.known("tokens_per_sec"), self.known("time_ms")
        _, at, there = np.intersect1d(rates[:, 0], times[:, 0], return_indices=True)
        # Of the steps that the rate is of: a callback reports less often than the log has rows.
        milliseconds = times[there, 2] * rates[at, 1]
        total = float(milliseconds.sum())
        return float((rates[at, 2] * milliseconds).sum()) / total if total > 0 else None

    def column(self, name: str) -> np.ndarray:
        """Return one quantity of all step rows as float64 of shape (rows,), NaN where it is unknown.

        The names are the fields of a step record and whatever else a run logged (``steps.quantities`` lists them).
        The array belongs to the run: copy it before you write to it.
        """
        return self.steps.column(name)

    def known(self, name: str) -> np.ndarray:
        """Return one quantity of the steps where it is known, float64 of shape (n, 3): ``iter``, steps it is of, value.

        Where no row knows it, what a callback has measured of it in a Trainer that does not log it, since the report before.
        """
        rows = np.stack([self.column("iter"), self.column("steps"), self.column(name)], axis=1)
        rows = rows[np.isfinite(rows).all(1)]
        if len(rows) or name not in MEASURED:
            return rows
        values = [(record.iter, record.metrics.get(MEASURED[name])) for record in self.measurements]
        found = np.array([pair for pair in values if isinstance(pair[1], (int, float))], dtype=np.float64).reshape(
            -1, 2
        )
        found = found[np.isfinite(found).all(1)]
        return np.insert(found, 1, np.diff(found[:, 0], prepend=0.0), axis=1)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return the step rows as a pandas DataFrame: one row a step record, one column a quantity that is known.

        Whole numbers are int64 where no value is missing. Units are those of the journal.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise UserError("a DataFrame needs pandas, which is not installed; pip install pandas") from error
        columns = {name: self.column(name) for name in self.steps.quantities}
        whole = {name: column for name, column in columns.items() if self.steps.is_whole(name)}
        return pd.DataFrame({**columns, **{name: column.astype(np.int64) for name, column in whole.items()}})


def common_loss_unit(runs: Iterable[Run]) -> str:
    """Return the unit that the losses of all runs have; nothing where one of them has another, or none that is known."""
    units = {run.loss_unit for run in runs}
    return units.pop() if len(units) == 1 else ""


def _sets_of(record: EvaluationRecord) -> list[str]:
    """Names of the evaluation sets that a record has metrics of; none where there is only one."""
    return [found[1] for name in record.metrics if (found := _OF_A_SET.fullmatch(name))]


def _scored_sets(record: EvaluationRecord) -> list[str]:
    """Names of the sets that have a loss or an nll, in the order in which they were evaluated."""
    found = [
        match[1]
        for name in record.metrics
        if record.number(name) is not None and (match := _LOSS_OF_A_SET.fullmatch(name))
    ]
    return list(dict.fromkeys(name for name in found if name != "native"))


def _put_in_front(record: EvaluationRecord, name: str) -> None:
    """Have the metrics of a set stand for the evaluation, besides under the name of the set."""
    others = [f"eval_{other}_" for other in _sets_of(record) if other.startswith(f"{name}_")]
    prefix = f"eval_{name}_"
    own = {
        key.removeprefix(prefix): value
        for key, value in record.metrics.items()
        if key.startswith(prefix) and not key.startswith(tuple(others))
    }
    record.metrics.update({f"eval_{key}": value for key, value in own.items()})


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def _is_resume(record: Record | Steps) -> bool:
    return isinstance(record, EventRecord) and record.event == "resumed"


def _up_to(step: int, records: list[_Stepped]) -> list[_Stepped]:
    return [record for record in records if record.iter <= step]
