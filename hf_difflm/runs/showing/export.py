"""Runs as tables for other programs: CSV, markdown, LaTeX and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, did_you_mean
from ..comparing.evaluation_table import train_losses
from ..comparing.table import compare_runs, labels
from ..derived.document import build_document, render_document, summarize
from ..journal.atomic_files import replacing
from ..journal.measurements import measurement_rows
from ..journal.run import Run
from ..journal.strict_json import dumps, plain
from ..journal.tables import UNKNOWN, markdown_table, number
from .paper_tables import results_latex, results_markdown, results_rows

TABLES = ("results", "steps", "evaluations", "measurements", "summary")
RESULTS = TABLES[0]
"""The table of a paper, made of the comparison of the runs."""
# One row a number; in the others the columns follow from what is known.
_MEASUREMENT_KEYS = ["run", "iter", "source", "name", "value", "timestamp"]
_BLOCK = 10_000
# What the columns of a summary are called where people read it.
_SUMMARY_HEADINGS = {
    "final_train_loss": "Final train loss",
    "best_val_loss": "Best val loss",
    "best_val_iter": "at step",
    "avg_time_ms": "Avg time (ms)",
    "avg_mfu": "Avg MFU (%)",
    "total_iterations": "Total iters",
    "tokens_seen": "Tokens seen",
}


def export_json(runs: Sequence[Run]) -> str:
    """Return the document of a run, or a list of those of several, as strict JSON."""
    documents = [render_document(build_document(run)) for run in runs]
    return documents[0] if len(documents) == 1 else "[\n" + ",\n".join(map(str.rstrip, documents)) + "\n]\n"


def export_csv(runs: Sequence[Run], table: str = "steps") -> Iterator[str]:
    """Yield a CSV table in pieces: a heading, then one line a row; an unknown value is an empty cell.

    Args:
        runs: at least one; the first column is the run where there are several.
        table: ``steps`` (the quantities that some step knows), ``evaluations`` (every metric), ``measurements`` (one row
            a number), ``summary`` or ``results`` (:func:`~.paper_tables.results_rows`).

    Raises:
        UserError: the table is unknown.
    """
    _check_table(table)
    names = labels(runs)
    several = len(runs) > 1
    if table == "steps":
        quantities = list(dict.fromkeys(name for run in runs for name in run.steps.quantities))
        yield _csv_lines([["run"] * several + quantities])
        for run, name in zip(runs, names, strict=True):
            columns = [(run.column(quantity), run.steps.is_whole(quantity)) for quantity in quantities]
            for start in range(0, len(run.steps), _BLOCK):
                cells = [_cells(column[start : start + _BLOCK], whole) for column, whole in columns]
                yield _csv_lines([name] * several + list(row) for row in zip(*cells, strict=True))
        return
    rows = _table_rows(runs, names, table)
    headings = list(dict.fromkeys(key for row in rows for key in row)) or _MEASUREMENT_KEYS
    if not several and table not in ("summary", RESULTS):
        headings = [heading for heading in headings if heading != "run"]
    yield _csv_lines([headings])
    yield _csv_lines([["" if row.get(key) is None else row[key] for key in headings] for row in rows])


def export_markdown(runs: Sequence[Run], table: str = "summary") -> str:
    """Return a markdown table of the runs; see :func:`export_csv` for the tables.

    Raises:
        UserError: the table is unknown, or it is that of single steps, which is long.
    """
    _check_table(table)
    if table == "steps":
        raise UserError(
            "a markdown table of every step would be too long to read; use --format csv, or --table summary"
        )
    if table == RESULTS:
        return results_markdown(compare_runs(runs))
    names = labels(runs)
    if table != "summary":
        rows = _table_rows(runs, names, table)
        headings = list(dict.fromkeys(key for row in rows for key in row if key != "timestamp")) or _MEASUREMENT_KEYS
        return markdown_table(headings, [[_shown(row.get(key)) for key in headings] for row in rows], left=1) + "\n"
    rows = _summary_rows(runs, names)
    keys = [key for key in _SUMMARY_HEADINGS if any(row.get(key) is not None for row in rows)]
    cells = [[str(row["run"]), str(row["status"]), *(_shown(row.get(key)) for key in keys)] for row in rows]
    return markdown_table(["Run", "Status", *(_SUMMARY_HEADINGS[key] for key in keys)], cells) + "\n"


def export_latex(runs: Sequence[Run], table: str = RESULTS) -> str:
    """Return the table of a paper for LaTeX; see :func:`~.paper_tables.results_latex`.

    Raises:
        UserError: another table is asked for.
    """
    _check_table(table)
    if table != RESULTS:
        raise UserError(f"--table {table} has no LaTeX form; use --table {RESULTS}, or --format csv or markdown")
    return results_latex(compare_runs(runs))


def write_pieces(path: Path, pieces: Iterable[str]) -> Path:
    """Write text that comes in pieces to a file, in one step, and return its path.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="") as file:
            file.writelines(pieces)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written ({error.strerror}); name another --output") from error
    return path


def comparison_json(runs: Sequence[Run], names: Sequence[str] | None = None) -> str:
    """Return the comparison of runs as strict JSON: rows, means over seeds, differences, the paired difference."""
    comparison = compare_runs(runs, names)
    return dumps(
        plain(
            {
                "runs": [vars(row) for row in comparison.rows],
                "seeds": [vars(row) for row in comparison.seed_rows],
                "differences": comparison.differences,
                "source_nll": comparison.source_nll,
                "paired": None if comparison.paired is None else vars(comparison.paired),
            }
        ),
        indent=2,
    )


def _table_rows(runs: Sequence[Run], names: Sequence[str], table: str) -> list[dict[str, Any]]:
    if table == RESULTS:
        return results_rows(compare_runs(runs))
    if table == "measurements":
        return list(measurement_rows(runs, names))
    return _evaluation_rows(runs, names) if table == "evaluations" else _summary_rows(runs, names)


def _summary_rows(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "run": name,
            "status": run.status,
            "objective": run.objective,
            "bound": run.bound,
            "start_time": run.start_time,
            "end_time": run.end_time,
            "parameters": run.header.model.get("parameters"),
            **summarize(run),
            "best_val_loss_stderr": run.lowest_evaluation.nll_stderr if run.lowest_evaluation else None,
        }
        for run, name in zip(runs, names, strict=True)
    ]


def _evaluation_rows(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "run": name,
            "iter": record.iter,
            "train_loss": train_loss,
            "val_loss": record.nll,
            "val_loss_stderr": record.nll_stderr,
            "timestamp": record.time,
            **{key: value for key, value in record.metrics.items() if _is_cell(value)},
        }
        for run, name in zip(runs, names, strict=True)
        for record, train_loss in zip(run.evaluations, train_losses(run), strict=True)
    ]


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _cells(values: np.ndarray, whole: bool) -> list[Any]:
    return ["" if value != value else int(value) if whole else value for value in values.tolist()]


def _shown(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else number(value, 4)


def _csv_lines(rows: Any) -> str:
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerows(rows)
    return output.getvalue()


def _check_table(table: str) -> None:
    if table not in TABLES:
        raise UserError(f"table {table!r} is unknown{did_you_mean(table, TABLES)}; the tables are {', '.join(TABLES)}")
