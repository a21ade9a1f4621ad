"""Runs for TensorBoard and for Weights & Biases. Both libraries are imported here alone, when they are asked for."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..comparing.table import labels
from ..journal.atomic_files import document_name
from ..journal.measurements import numbers
from ..journal.run import Run
from ..journal.strict_json import plain

_ENVELOPE = ("iter", "steps")


def export_tensorboard(runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """Write an event file for each run, in a folder of its own, and return these folders.

    Scalars are ``train/{quantity}``, ``eval/{metric}`` and measurements under their own names, at the times they were
    logged; samples are texts.

    Raises:
        UserError: tensorboard is not installed, or a folder holds event files already.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise UserError("exporting to TensorBoard needs tensorboard; pip install tensorboard") from error

    places = [Path(folder) / _folder_name(name) for name in labels(runs)]
    for place in places:
        if any(place.glob("*tfevents*")):
            raise UserError(f"{str(place)!r} holds event files already; name another --output")
    for run, place in zip(runs, places, strict=True):
        writer = EventFileWriter(str(place))
        for step, time, values in _rows(run):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            writer.add_event(Event(wall_time=_seconds(time), step=step, summary=summary))
        for number, sample in enumerate(run.samples):
            metadata = create_summary_metadata(display_name=None, description=None)
            text = f"**{sample.prompt}**{sample.text}" if sample.prompt else sample.text
            tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode("utf-8", "replace")])
            value = Summary.Value(tag=f"samples/{_prompt_number(run, number)}", metadata=metadata, tensor=tensor)
            writer.add_event(Event(wall_time=_seconds(sample.time), step=sample.iter, summary=Summary(value=[value])))
        writer.close()
    return places


def export_wandb(runs: Sequence[Run], folder: str | Path, project: str = "hf-difflm") -> list[Path]:
    """Write an offline Weights & Biases run for each run and return their folders, which ``wandb sync`` uploads.

    Metrics are ``train/{quantity}``, ``eval/{metric}`` and measurements under their own names, the settings its config,
    the samples a table.

    Raises:
        UserError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError("exporting to Weights & Biases needs wandb; pip install wandb") from error

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
    )
    places = []
    # A session that is going on in the environment must not take the exported run for its own.
    kept = {name: os.environ.pop(name) for name in ("WANDB_RUN_ID", "WANDB_RESUME") if name in os.environ}
    try:
        for run, name in zip(runs, labels(runs), strict=True):
            config = plain({**run.config, "data": run.header.data, "model": run.header.model})
            tracked: Any = wandb.init(
                project=project, name=name, dir=str(folder), mode="offline", config=config, settings=settings
            )
            for step, _, values in _merged(_rows(run)):
                tracked.log(values, step=step)
            if run.samples:
                rows = [[sample.iter, sample.prompt, sample.text] for sample in run.samples]
                tracked.log({"samples": wandb.Table(columns=["step", "prompt", "text"], data=rows)})
            places.append(Path(tracked.dir).parent)
            tracked.finish(exit_code=0 if run.status != "failed" else 1)
    finally:
        os.environ.update(kept)
        if wandb.run is None:
            # An offline run is finished before its file is written whole; that is sure once the service has ended.
            wandb.teardown()
    return places


def _rows(run: Run) -> Iterator[tuple[int, str, dict[str, float]]]:
    """Every step, measurement and evaluation in the order of training: step, time, what is known by tag."""
    measurements = ((record.iter, record.time, numbers(record)) for record in run.measurements)
    evaluations = ((record.iter, record.time, _metrics(record.metrics)) for record in run.evaluations)
    return heapq.merge(_step_rows(run), measurements, evaluations, key=lambda row: row[0])


def _step_rows(run: Run) -> Iterator[tuple[int, str, dict[str, float]]]:
    quantities = [name for name in run.steps.quantities if name not in _ENVELOPE]
    for record in run.steps:
        values = {name: getattr(record, name, record.extra.get(name)) for name in quantities}
        yield record.iter, record.time, {f"train/{name}": value for name, value in values.items() if value is not None}


def _merged(rows: Iterator[tuple[int, str, dict[str, float]]]) -> Iterator[tuple[int, str, dict[str, float]]]:
    """One row a step: Weights & Biases refuses to go back to a step."""
    last: tuple[int, str, dict[str, float]] | None = None
    for step, time, values in rows:
        if last is not None and last[0] == step:
            last[2].update(values)
            continue
        if last is not None:
            yield last
        last = (step, time, dict(values))
    if last is not None:
        yield last


def _metrics(metrics: dict[str, Any]) -> dict[str, float]:
    return {
        f"eval/{name.removeprefix('eval_')}": float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _prompt_number(run: Run, number: int) -> int:
    """Which of the samples of its step this is: the same prompt has the same number at each step."""
    first = number
    while first > 0 and run.samples[first - 1].iter == run.samples[number].iter:
        first -= 1
    return number - first


def _folder_name(name: str) -> str:
    return document_name(name).removesuffix(".json")


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:  # a log of another program
        return 0.0
