"""What a run must have in common with the checkpoint that it goes on from, recorded in each checkpoint."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...runs.journal.atomic_files import write_text
from ...runs.journal.checkpoints import EMA_FILE, FACTS_FILE
from ..declarations.identity import TRAINER_IDENTITY, Changes, another_experiment, keeping, only_watching, refusal
from ..options import DiffusionOptions


@dataclass
class ResumeFacts:
    """One training, as far as a resume has to know it.

    Attributes:
        engine: see :func:`hf_difflm.callbacks.measuring.engines.engine_of`.
        world_size: number of processes.
        global_batch_size: sequences in an optimiser batch.
        objective: name of the objective.
        train_sequences: length of the training set; None where it has none.
        is_stream: whether the training set is a stream.
        settings: the fields of ``DiffusionOptions``, and those of ``TrainingArguments`` that make the experiment.
    """

    engine: str
    world_size: int
    global_batch_size: int
    objective: str
    train_sequences: int | None = None
    is_stream: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, checkpoint: Path) -> None:
        """Write ``resume.json``."""
        write_text(checkpoint / FACTS_FILE, json.dumps(dataclasses.asdict(self), indent=1))


def settings_of(args: Any) -> dict[str, Any]:
    """The values of ``DiffusionTrainingArguments`` that a resume compares, as JSON would give them back.

    The optimiser batch is compared as what it comes to, not as it was given.
    """
    names = {item.name for item in dataclasses.fields(DiffusionOptions)} | TRAINER_IDENTITY
    values = {name: getattr(args, name) for name in sorted(names - {"global_batch_size"})}
    return json.loads(json.dumps(values, default=lambda value: getattr(value, "value", str(value))))


def read_facts(checkpoint: Path) -> ResumeFacts | None:
    """What the checkpoint recorded; None where it was written before there was such a record."""
    path = checkpoint / FACTS_FILE
    if not path.exists():
        return None
    known = {item.name for item in dataclasses.fields(ResumeFacts)}
    return ResumeFacts(**{name: value for name, value in json.loads(path.read_text()).items() if name in known})


def check_resumable(checkpoint: Path, now: ResumeFacts, micro_batches: int) -> Changes:
    """Find what stands in the way of going on from ``checkpoint``; return the changes that do no harm.

    Args:
        checkpoint: a good checkpoint.
        now: the training that shall go on.
        micro_batches: sequences that all its processes take at once.

    Raises:
        UserError: other settings, data or processes, with which it would be another experiment; no moving average.
    """
    then = read_facts(checkpoint)
    if then is None:
        _check_average(checkpoint, now.settings)
        return {}
    _check_processes(checkpoint, then, now)
    changed = another_experiment(then.settings, now.settings)
    if then.objective != now.objective:
        changed["objective"] = (then.objective, now.objective)
    if changed:
        raise UserError(refusal(f"cannot resume from {checkpoint}", changed, now.settings))
    if then.global_batch_size != now.global_batch_size:
        raise UserError(
            f"cannot resume from {checkpoint} with an optimiser batch of {now.global_batch_size} sequences, since it was "
            f"started with {then.global_batch_size}; {keeping(then.global_batch_size, micro_batches)}"
        )
    if None not in (then.train_sequences, now.train_sequences) and then.train_sequences != now.train_sequences:
        raise UserError(
            f"cannot resume from {checkpoint} with a training set of {now.train_sequences} sequences, since it was started "
            f"with {then.train_sequences}; give the same data"
        )
    _check_average(checkpoint, now.settings)
    return only_watching(then.settings, now.settings)


def _check_average(checkpoint: Path, settings: dict[str, Any]) -> None:
    if settings["ema_decay"] is not None and not (checkpoint / EMA_FILE).exists():
        raise UserError(
            f"{checkpoint} holds no moving average of the weights ({EMA_FILE}), but ema_decay is {settings['ema_decay']:g}; "
            "leave out ema_decay, or start another run"
        )


def _check_processes(checkpoint: Path, then: ResumeFacts, now: ResumeFacts) -> None:
    """Data-parallel runs may be cut anew; what is sharded in files of its own engine needs that engine again."""
    if _family(then.engine) != _family(now.engine) or ("zero" in then.engine and then.engine != now.engine):
        raise UserError(
            f"{checkpoint} was written under {_engine_in_words(then)}, and its files mean nothing to "
            f"{_engine_in_words(now)}; resume it with the accelerate configuration that it was started with"
        )
    if then.world_size == now.world_size:
        return
    cut = f"{checkpoint} was written by {_count(then.world_size)} and cannot be resumed by {_count(now.world_size)}"
    if "zero" in now.engine:
        raise UserError(f"{cut}, since ZeRO keeps one part of the optimiser a process; start {_count(then.world_size)}")
    if then.is_stream or now.is_stream:
        raise UserError(f"{cut}, since its training set is a stream; start {_count(then.world_size)}")


def _family(engine: str) -> str:
    return {"single": "ddp"}.get(engine, "zero" if "zero" in engine else engine)


def _engine_in_words(facts: ResumeFacts) -> str:
    return f"{facts.engine} with {_count(facts.world_size)}"


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
