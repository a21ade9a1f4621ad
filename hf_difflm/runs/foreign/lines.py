"""Logs of one line a row: JSON lines (``trainer_log.jsonl``, ``metrics.jsonl``) and CSV with a header."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..journal.schema import EventRecord, Record, RunRecord
from .scalars import NoScalars, read_rows

_DELIMITERS = (",", ";", "\t")
_WITH_POINT = re.compile(r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?")
_WITH_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
_LLAMA_FACTORY = {"current_steps", "total_steps"}
_PROGRESS = frozenset({"total_steps", "percentage", "elapsed_time", "remaining_time"})
_LOGGED = ("loss", "eval_loss", "predict_loss", "reward", "lr")
_CHART_ENDS = ("__MIN", "__MAX")


def read_json_lines(text: str, name: str, path: Path) -> tuple[list[Record], int]:
    """Return the records of a log of JSON lines, and the number of lines that are no JSON object and were skipped.

    Raises:
        NoScalars: it has no steps, or nothing else.
        TypeError: a row without a step, or with a quantity of ours that is no number.
    """
    rows: list[Mapping[str, Any]] = []
    damaged = 0
    for line in filter(str.strip, text.splitlines()):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged += 1
    if rows and rows[0].keys() >= _LLAMA_FACTORY:
        return _llama_factory(rows, name, path), damaged
    return read_rows(rows, RunRecord(run_name=name), path), damaged


def read_csv(text: str, name: str, path: Path) -> list[Record]:
    """Return the records of CSV whose first line names the columns; numbers as Python reads them, empty cells unknown.

    Columns are parted by commas, semicolons or tabs; where by semicolons and no number has a point, decimals follow a comma.

    The export of a W&B chart (columns ``run - metric``) is read where it holds the curves of one run.

    Raises:
        NoScalars: it has no steps, or nothing else, or the curves of several runs.
        TypeError: a row has no step, or a quantity of ours is no number.
    """
    lines = text.splitlines()
    first = lines[0] if lines else ""
    delimiter = max(_DELIMITERS, key=first.count)
    table = list(csv.DictReader(lines, delimiter=delimiter))
    comma = delimiter == ";" and not any(
        isinstance(cell, str) and _WITH_POINT.fullmatch(cell.strip()) for cells in table for cell in cells.values()
    )
    rows: list[dict[str, Any]] = []
    for cells in table:
        row = {key.strip(): _cell(cell, comma) for key, cell in cells.items() if key and isinstance(cell, str)}
        rows.append({key: cell for key, cell in row.items() if cell is not None})
    return read_rows(_without_chart(rows), RunRecord(run_name=name), path)


def _llama_factory(rows: list[Mapping[str, Any]], name: str, path: Path) -> list[Record]:
    """LLaMA-Factory's ``LogCallback``: what it calls accuracy is the share of pairs in which the better answer wins."""
    kept = [
        {
            "rewards/accuracies" if key == "accuracy" else key: value
            for key, value in row.items()
            if key not in _PROGRESS
        }
        for row in rows
        if any(key in row for key in _LOGGED)  # the others say how far it is, no more
    ]
    total = rows[-1].get("total_steps")
    records = read_rows(kept, RunRecord(run_name=name, config={"max_steps": total} if total else {}), path)
    if total and rows[-1].get("current_steps") == total:
        records.append(EventRecord(event="completed", iter=total))
    return records


def _cell(cell: str, comma: bool = False) -> Any:
    """A number where it is one, its decimals after a comma where ``comma`` says so, else text; None where it is empty."""
    cell = cell.strip()
    if not cell:
        return None
    if comma and _WITH_COMMA.fullmatch(cell):
        cell = cell.replace(",", ".")
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell


def _without_chart(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a W&B chart under the names of its metrics; other rows as they are.

    Raises:
        NoScalars: the chart is one of several runs.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    charted = {name: name.rpartition(" - ") for name in names if " - " in name and not name.endswith(_CHART_ENDS)}
    if not charted or not all(f"{name}{end}" in names for name in charted for end in _CHART_ENDS):
        return rows
    runs = list(dict.fromkeys(run for run, _, _ in charted.values()))
    if len(runs) > 1:
        raise NoScalars(f"it is a chart of {len(runs)} runs ({', '.join(runs)}); export one of them at a time")
    kept = {
        **{name: name for name in names if " - " not in name},
        **{name: parts[2] for name, parts in charted.items()},
    }
    return [{kept[name]: value for name, value in row.items() if name in kept} for row in rows]
