"""What a run has measured now and then - gradients, statistics, throughput, samples: the last of it, rows, curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .run import Run
from .schema import MeasurementRecord
from .tables import count, shortened

_CONDITIONS = ("protocol", "bos_token", "chat_template")
"""What is no number and is shown beside the numbers that came about so."""


def numbers(record: MeasurementRecord) -> dict[str, float]:
    """Return the metrics of a record that are numbers."""
    return {
        name: value
        for name, value in record.metrics.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def last_measurements(run: Run) -> dict[str, MeasurementRecord]:
    """Return the last that each source said, in the order in which the sources first spoke.

    What the very last record of a source leaves out is taken from the one before it: after the last step a throughput, for
    one, tells of the evaluation alone.
    """
    found: dict[str, MeasurementRecord] = {}
    for record in run.measurements:
        before = found.get(record.source)
        if before is not None and before.metrics.keys() - record.metrics.keys():
            metrics = {**before.metrics, **record.metrics}
            found[record.source] = replace(record, metrics=metrics, histograms=record.histograms or before.histograms)
        else:
            found[record.source] = record
    return found


def measurement_lines(run: Run, width: int = 120) -> list[str]:
    """Return one line for each source: its last step, as many of its numbers as fit, and how many more there are.

    A number's standard error stands behind it; under what conditions it came about comes last.
    """
    lines = []
    for source, record in last_measurements(run).items():
        known = numbers(record)
        parts = [
            f"{name} {value:.4g}" + (f" ± {known[error]:.2g}" if (error := f"{name}_stderr") in known else "")
            for name, value in known.items()
            if not (name.endswith("_stderr") and name.removesuffix("_stderr") in known)
        ]
        told = {name: value for name, value in record.metrics.items() if name.rpartition("/")[2] in _CONDITIONS}
        parts += [f"{name} {_words(value)}" for name, value in told.items()]
        parts += [f"histogram of {name}" for name in record.histograms or ()]
        line = f"{shortened(source)} at step {count(record.iter)}: "
        kept = len(parts)
        while kept > 1 and len(line + _enumerated(parts, kept)) > width:
            kept -= 1
        lines.append(line + _enumerated(parts, kept))
    return lines


def _words(value: Any) -> str:
    return value if isinstance(value, str) else {None: "none", False: "no", True: "yes"}.get(value, str(value))


def _enumerated(parts: Sequence[str], kept: int) -> str:
    more = [f"and {len(parts) - kept} more"] if len(parts) > kept else []
    return ", ".join([*parts[:kept], *more]) or "nothing"


def measurement_rows(runs: Sequence[Run], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield one row a number: run, iter, source, name, value, timestamp."""
    for run, label in zip(runs, names, strict=True):
        for record in run.measurements:
            for name, value in numbers(record).items():
                yield {
                    "run": label,
                    "iter": record.iter,
                    "source": record.source,
                    "name": name,
                    "value": value,
                    "timestamp": record.time,
                }


def measured_names(runs: Sequence[Run], source: str) -> list[str]:
    """Return the names of the numbers of one source over several runs, in the order in which they first came."""
    found = (record for run in runs for record in run.measurements if record.source == source)
    return list(dict.fromkeys(name for record in found for name in numbers(record)))


def measurement_series(run: Run, source: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of one number, both float64 of shape (points,); unknown values are left out."""
    points = [
        (record.iter, value)
        for record in run.measurements
        if record.source == source and (value := numbers(record).get(name)) is not None
    ]
    x_y = np.array(points, dtype=np.float64).reshape(-1, 2)
    return x_y[:, 0], x_y[:, 1]
