"""Which weights go up, and what the run log says of exactly these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..evaluation.targets import find_weights
from ..runs import Run, load_run
from ..runs.journal.checkpoints import EMA_FILE, checkpoints, damage, keeps_average, newest_good
from ..runs.journal.schema import EvaluationRecord

EMA, RAW = "ema", "raw"
WEIGHTS = (EMA, RAW)


@dataclass(frozen=True)
class PushSource:
    """What is pushed.

    Attributes:
        folder: the model folder: ``best/``, a checkpoint or another.
        average: file of averaged weights that take the place of those in ``folder``; None: those go up as they are.
        is_averaged: whether what goes up is a moving average; None where no log says.
        run: the run log, where there is one.
        step: optimiser steps behind the weights, where known.
        evaluation: the evaluation of exactly these weights, where there was one.
    """

    folder: Path
    average: Path | None = None
    is_averaged: bool | None = None
    run: Run | None = None
    step: int | None = None
    evaluation: EvaluationRecord | None = None


def find_source(target: str | Path, weights: str | None = None) -> PushSource:
    """Find what to push.

    Args:
        target: a run (its ``best/``, else its newest good checkpoint), a checkpoint or a model folder; on this disk.
        weights: ``ema`` or ``raw``; None takes what ``best/`` holds, and of a checkpoint the average, if it has one.

    Raises:
        UserError: there is nothing to push, it is damaged, or it has no weights of that kind.
    """
    if weights not in (None, *WEIGHTS):
        raise UserError(f"--weights {weights} is unknown; give {EMA} (the moving average) or {RAW}")
    if not Path(target).is_dir():
        raise UserError(f"{target} is no folder; give a run, a checkpoint or a model folder to push")
    found = find_weights(str(target))
    run = load_run(found.run) if found.run is not None else None
    if found.folder.name.startswith("checkpoint-"):
        return _of_checkpoint(found.folder, weights, run, found.step)
    averages = run is not None and keeps_average(run.config)
    if weights == RAW and averages and run is not None and found.run is not None:
        return _of_checkpoint(_checkpoint_near(found.run, found.step), RAW, run, None)
    if weights == EMA and not averages:
        raise UserError(
            f"nothing says that {found.folder} holds a moving average of the weights; leave out --weights, or train "
            "with --ema-decay"
        )
    best = run.best_evaluation if run is not None and found.folder.name == "best" else None
    averaged = averages if run is not None and found.folder.name == "best" else None
    return PushSource(found.folder, None, averaged, run, found.step, best)


def _of_checkpoint(folder: Path, weights: str | None, run: Run | None, step: int | None) -> PushSource:
    """A checkpoint holds the raw weights and, where the run keeps one, their average, which is what is evaluated."""
    average = folder / EMA_FILE
    if weights == EMA and not average.exists():
        raise UserError(
            f"{folder} holds no moving average ({EMA_FILE}); leave out --weights, or train with --ema-decay"
        )
    if step is None:
        step = int(folder.name.removeprefix("checkpoint-").removesuffix(".old"))
    averaged = average.exists() and weights != RAW
    evaluations = [] if run is None or averaged != average.exists() else run.evaluations
    measured = next((one for one in reversed(evaluations) if one.iter == step and one.nll is not None), None)
    return PushSource(folder, average if averaged else None, averaged, run, step, measured)


def _checkpoint_near(run: Path, step: int | None) -> Path:
    """The good checkpoint of the best step, where raw weights are, or else the newest good one."""
    for folder in checkpoints(run):
        if folder.name == f"checkpoint-{step}" and damage(folder) is None:
            return folder
    newest, _ = newest_good(run)
    if newest is None:
        raise UserError(
            f"{run} has no good checkpoint, and its best/ holds averaged weights; push those with --weights {EMA}"
        )
    return newest
