"""Runs at a glance: the list of all, and everything about one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from ..comparing.table import labels
from ..comparing.verdicts import BOUND, kind_of
from ..derived.document import summarize
from ..derived.metrics import losses_by_epoch
from ..journal.append_only import RECORDS_LOST
from ..journal.measurements import last_measurements, measurement_lines
from ..journal.quantities import quantity_in
from ..journal.run import Run
from ..journal.schema import STATUS_OF_EVENT, STEP_NUMBERS, EvaluationRecord
from ..journal.tables import (
    UNKNOWN,
    count,
    duration,
    line_table,
    number,
    printable,
    shortened,
    significant,
    text_table,
    with_error,
)
from ..reading.places import typed

# Quantities of a step in the order people ask for them, with how they are written.
_QUANTITIES = (
    "loss",
    "accuracy",
    "grad_norm",
    "lr",
    "adamw_learning_rate",
    "time_ms",
    "tokens_per_sec",
    "mfu",
    "noise_level",
    "masking_rate",
)
_ROOM_FOR_ERRORS = 100  # columns; below it the runs' names need the room
_SUMMARY_HEADINGS = (
    "run",
    "objective",
    "status",
    "steps",
    "first loss",
    "last loss",
    "lowest loss",
    "epochs",
    "last epoch's loss",
    "best evaluation ± se",
)


def list_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one row of plain values a run, the newest first."""
    rows = [
        {
            "path": typed(run),
            "run_name": run.name,
            "objective": run.objective,
            "status": run.status,
            "killed": run.killed,
            "death": run.death,
            "start_time": run.start_time,
            "end_time": run.end_time,
            **summarize(run),
            "best_val_loss_stderr": run.lowest_evaluation.nll_stderr if run.lowest_evaluation else None,
            "bound": run.bound,
        }
        for run in runs
    ]
    return sorted(rows, key=lambda row: _sortable(row["start_time"]), reverse=True)


def list_text(runs: Sequence[Run], width: int) -> str:
    """Return the list as a table that fits into ``width`` columns."""
    # The step of a death has a column of its own here.
    status = {typed(run): (run.death or run.shown_status).replace(f" at step {run.last_step:,}", "") for run in runs}
    epochs = {typed(run): " epochs" for run in runs if run.step_word == "epoch"}
    wide = width >= _ROOM_FOR_ERRORS
    cells = [
        [
            row["path"],
            status[row["path"]],
            f"{count(row['final_iter'])}{epochs.get(row['path'], '')}",
            number(row["final_train_loss"], 4),
            _estimate(row["best_val_loss"], row["best_val_loss_stderr"] if wide else None, row["bound"]),
            _short_time(row["start_time"]),
        ]
        for row in list_rows(runs)
    ]
    return line_table(
        ["run", "status", "steps", "loss", f"best eval{' ± se' if wide else ''}", "started"], cells, width
    )


def _estimate(value: float | None, stderr: float | None, bound: str | None) -> str:
    """``≤ value ± stderr``; without the mark where the number is no bound, or its log does not say."""
    return f"{'≤ ' if value is not None and kind_of(bound) == BOUND else ''}{with_error(value, stderr)}"


def summary_text(runs: Sequence[Run], names: Sequence[str] | None, width: int) -> str:
    """Return the losses of each run: first, last, lowest, by epoch, and the best evaluation.

    Raises:
        UserError: there is not one name for each run.
    """
    rows = []
    for run, name in zip(runs, labels(runs, names), strict=True):
        losses = run.column("loss")
        losses = losses[np.isfinite(losses)]
        epochs, by_epoch = losses_by_epoch(run)
        best = run.best_evaluation
        rows.append(
            [
                name,
                shortened(run.objective) if run.objective else UNKNOWN,
                run.shown_status,
                count(summarize(run)["total_iterations"]),
                number(losses[0], 4) if len(losses) else UNKNOWN,
                number(losses[-1], 4) if len(losses) else UNKNOWN,
                number(losses.min(), 4) if len(losses) else UNKNOWN,
                count(epochs[-1]) if len(epochs) else UNKNOWN,
                number(by_epoch[-1], 4) if len(epochs) else UNKNOWN,
                _estimate(best.nll, best.nll_stderr, run.bound) if best else UNKNOWN,
            ]
        )
    return text_table(_SUMMARY_HEADINGS, rows, width)


def show_data(run: Run) -> dict[str, Any]:
    """Return everything about a run but its rows: what it is, its summary, statistics of each quantity, settings."""
    header = run.header
    return {
        "path": typed(run),
        "run_name": run.name,
        "run_id": header.run_id,
        "objective": run.objective,
        "bound": run.bound,
        "status": run.status,
        "killed": run.killed,
        "death": run.death,
        "start_time": run.start_time,
        "end_time": run.end_time,
        "summary": summarize(run),
        "statistics": {name: found for name in _shown(run) if (found := _statistics(run, name))},
        "config": run.config,
        "data": header.data,
        "model": header.model,
        "metadata": header.metadata,
        "events": [
            {"event": event.event, "iter": event.iter, "message": event.message, "time": event.time}
            for event in run.events
        ],
        "measurements": {
            source: {"iter": record.iter, "metrics": record.metrics, "time": record.time}
            for source, record in last_measurements(run).items()
        },
        "damaged_lines": run.damaged_lines,
    }


def show_text(run: Run, width: int, settings: bool = False) -> str:
    """Return the same for people; the settings only where they are asked for."""
    data, summary = show_data(run), summarize(run)
    best = run.best_evaluation
    command = run.header.metadata.get("command")
    facts = [
        ("run", f"{run.name}  ({typed(run)})"),
        ("objective", " ".join(filter(None, [run.objective, f"({run.bound})" if run.bound else ""])) or UNKNOWN),
        ("status", " ".join([run.death or run.shown_status, _last_message(run)]).strip()),
        ("time", _period(run, summary["train_seconds"])),
        ("model", _model(run)),
        *_reads(run),
        ("engine", _engine(run)),
        *_mixture(run),
        *_optimizer(run),
        (
            "trained",
            f"{count(summary['total_iterations'])} {run.step_word}s, {count(summary['tokens_seen'])} scored tokens",
        ),
        ("best", f"{_with_unit(run, best)} at {run.step_word} {best.iter:,}" if best else UNKNOWN),
        *([("", run.headline_note)] if run.headline_note else []),
        *([("test", f"{_with_unit(run, test)} at step {test.iter:,}")] if (test := run.test_evaluation) else []),
        ("also", f"{len(run.evaluations)} evaluations, {len(run.checkpoints)} checkpoints, {len(run.samples)} samples"),
        ("command", command if isinstance(command, str) else UNKNOWN),
    ]
    facts += [("measured" if place == 0 else "", line) for place, line in enumerate(measurement_lines(run, width - 11))]
    lost = [event for event in run.events if event.event == RECORDS_LOST]
    facts += [("lost", f"at step {count(event.iter)}, {event.message}") for event in lost]
    if run.damaged_lines:
        facts.append(("damaged", f"{run.damaged_lines} lines of the journal could not be read"))
    lines = [f"{name:<10} {' '.join(printable(text).split())}" for name, text in facts]
    titles = {
        name: known.label if (known := quantity_in(name, run.objective)) else shortened(name) for name in _shown(run)
    }
    titles["loss"] = run.training_loss_label
    cells = [
        [titles[name], *(significant(found[key]) for key in ("mean", "min", "max", "last"))]
        for name, found in data["statistics"].items()
    ]
    if cells:
        lines += ["", line_table(["steps", "mean", "min", "max", "last"], cells, width)]
    if settings:
        lines += ["", "settings", *(f"  {key}: {shortened(value, width)}" for key, value in run.config.items())]
    return "\n".join(lines)


def _with_unit(run: Run, best: EvaluationRecord) -> str:
    value = with_error(best.nll, best.nll_stderr)
    return f"{value} {run.loss_unit}" if run.loss_unit else f"eval_loss {value}"


def _shown(run: Run) -> list[str]:
    """Our quantities, and what another Trainer logs beside them."""
    others = [name for name in run.steps.quantities if name not in STEP_NUMBERS]
    return [*_QUANTITIES, *(others if run.objective is None else [])]


def _statistics(run: Run, name: str) -> dict[str, float]:
    _, weights, values = run.known(name).T
    if not len(values):
        return {}
    return {
        "mean": float((values * weights).sum() / weights.sum()),
        "min": float(values.min()),
        "max": float(values.max()),
        "last": float(values[-1]),
    }


def _sortable(time: str | None) -> float:
    try:
        return datetime.fromisoformat(time or "").astimezone().timestamp()
    except ValueError:
        return 0.0


def _short_time(time: str | None) -> str:
    return UNKNOWN if not _sortable(time) else datetime.fromtimestamp(_sortable(time)).strftime("%Y-%m-%d %H:%M")


def _period(run: Run, train_seconds: float | None) -> str:
    ended = f" to {_short_time(run.end_time)}" if run.end_time else ""
    attempts = f", {len(run.headers)} attempts" if len(run.headers) > 1 else ""
    return f"{_short_time(run.start_time)}{ended}, {duration(train_seconds)} of training{attempts}"


def _last_message(run: Run) -> str:
    message = next((event.message for event in reversed(run.events) if event.event in STATUS_OF_EVENT), None)
    return f"({message})" if message else ""


def _engine(run: Run) -> str:
    """How the work was shared, and in which precision."""
    known = run.header.metadata
    size, engine, sharding = known.get("world_size"), known.get("engine"), known.get("sharding")
    parts = [
        f"{size} process{'es' if size != 1 else ''}" if isinstance(size, int) else None,
        engine if isinstance(engine, str) and engine != "single" else None,
        f"sharding {sharding}" if isinstance(sharding, str) else None,
        known.get("dtype"),
        None if known.get("compile") is None else f"{'' if known['compile'] else 'not '}compiled",
    ]
    return ", ".join(str(part) for part in parts if part) or UNKNOWN


def _reads(run: Run) -> list[tuple[str, str]]:
    """What the network was measured to read, where the log says so."""
    backbone = run.header.metadata.get("backbone")
    reads = backbone.get("reads") if isinstance(backbone, dict) else None
    return [("reads", reads)] if isinstance(reads, str) else []


def _optimizer(run: Run) -> list[tuple[str, str]]:
    """Which weights which rule trains, or what optimiser was given, where the log says so."""
    said = run.header.metadata.get("optimizer")
    return [("optimizer", said)] if isinstance(said, str) else []


def _model(run: Run) -> str:
    model, device = run.header.model, run.header.metadata.get("device")
    parameters = model.get("parameters")
    parts = [model.get("type"), f"{parameters:,} parameters" if isinstance(parameters, int) else None]
    parts.append(f"on {device}" if device else None)
    return ", ".join(str(part) for part in parts if part) or UNKNOWN


def _mixture(run: Run) -> list[tuple[str, str]]:
    shares = run.header.data.get("mixture")
    if not isinstance(shares, dict):
        return []
    parts = [
        f"{shortened(name)} {100 * share:.4g} %" for name, share in shares.items() if isinstance(share, (int, float))
    ]
    return [("mixture", f"{', '.join(parts)} of the tokens")]
