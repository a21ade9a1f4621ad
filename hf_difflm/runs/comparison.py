"""Put several runs into one table, and say what besides the objective differs between them."""

from __future__ import annotations

import io
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .run import Run

UNKNOWN = "-"
# What is meant to differ: the objective, names and places. All other settings should be equal in a fair comparison.
_EXPECTED_TO_DIFFER = {
    "experiment_name",
    "hub_model_id",
    "log_dir",
    "logging_dir",
    "objective",
    "output_dir",
    "overwrite",
    "resume",
    "resume_from_checkpoint",
    "run_name",
}


@dataclass(frozen=True)
class ComparisonRow:
    """One run's line: the numbers are those of its best evaluation, None where unknown; nats per scored token."""

    run: str
    objective: str | None
    parameters: int | None
    tokens_seen: int | None
    tokens_per_sec: float | None
    eval_nll: float | None
    eval_nll_stderr: float | None
    eval_bpb: float | None
    eval_ppl: float | None
    eval_accuracy: float | None
    bound: str | None
    best_step: int | None


@dataclass(frozen=True)
class Comparison:
    """The table of several runs, what differs between them, and the nll of the source itself where it is known."""

    rows: list[ComparisonRow]
    differences: dict[str, list[Any]]
    source_nll: float | None

    def to_text(self, width: int | None = None) -> str:
        """Return table and notes as plain text; ``width`` limits the table, by default to the terminal (none: 140)."""
        width = width or shutil.get_terminal_size((140, 24)).columns
        return f"{text_table(_HEADINGS, self._cells(), width)}\n{chr(10).join(self._notes())}\n"

    def to_markdown(self) -> str:
        """Return the table and the notes as markdown."""
        return f"{markdown_table(_HEADINGS, self._cells())}\n\n{(chr(10) * 2).join(self._notes())}\n"

    def _cells(self) -> list[list[str]]:
        return [
            [
                row.run,
                row.objective or UNKNOWN,
                count(row.parameters),
                count(row.tokens_seen),
                count(row.tokens_per_sec),
                with_error(row.eval_nll, row.eval_nll_stderr),
                number(row.eval_bpb, 4),
                number(row.eval_ppl, 3),
                number(row.eval_accuracy, 4),
                row.bound or UNKNOWN,
                count(row.best_step),
            ]
            for row in self.rows
        ]

    def _notes(self) -> list[str]:
        notes = []
        if self.source_nll is not None:
            notes.append(f"The source itself has {number(self.source_nll, 4)} nats/token on these blocks.")
        if len(self.rows) > 1:
            notes.append(_fairness_note(self.differences))
        return notes


_HEADINGS = (
    "run",
    "objective",
    "parameters",
    "tokens seen",
    "tokens/s",
    "nats/token ± se",
    "bits/byte",
    "perplexity",
    "accuracy",
    "bound",
    "best step",
)


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Return the comparison of one or more runs, in the order given.

    Raises:
        UserError: no run was given.
    """
    if not runs:
        raise UserError("there is no run to compare; give at least one run folder")
    sources = {run.source_nll for run in runs}
    rows = [_row(run, label) for run, label in zip(runs, labels(runs), strict=True)]
    return Comparison(rows, differences(runs), sources.pop() if len(sources) == 1 else None)


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return every setting, data property and size that differs: ``{key: [value in each run]}``, None where not set.

    Left out is what is meant to differ: the objective, names and paths.
    """
    settings = [_settings(run) for run in runs]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    columns = {key: [setting.get(key) for setting in settings] for key in keys}
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values[1:])}


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a distinct name for each run: its name, with its folder or place where two have the same."""
    names = [run.name for run in runs]
    counts = Counter(names)
    found = [f"{run.name} ({run.path.parent.name})" if counts[run.name] > 1 else run.name for run in runs]
    counts = Counter(found)
    return [f"{name} #{place}" if counts[name] > 1 else name for place, name in enumerate(found, start=1)]


def number(value: float | None, digits: int) -> str:
    """Return a number with this many decimals, ``-`` where it is unknown or not finite."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"


def count(value: float | None) -> str:
    """Return a whole number with thousands separators, ``-`` where it is unknown or not finite."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:,.0f}"


def with_error(value: float | None, stderr: float | None) -> str:
    """Return ``value ± stderr`` with four decimals; the error is left out where it is unknown."""
    error = "0" if stderr == 0 else number(stderr, 4)
    return number(value, 4) if error == UNKNOWN or value is None else f"{number(value, 4)} ± {error}"


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return a table as plain text, one line a row; where that is wider than ``width``, one column a row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    gap = 3
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [list(headings), *rows]
    if sum(widths) + gap * len(widths) > width:
        lines = [list(column) for column in zip(*lines, strict=True)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, heading in enumerate(lines[0]):
        table.add_column(Text(heading), justify="left" if place == 0 else "right", overflow="fold")
    for line in lines[1:]:
        table.add_row(*(Text(cell) for cell in line))  # Text: brackets in a run's name are no markup
    output = io.StringIO()
    Console(file=output, width=width, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().strip("\n").splitlines())


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table; the first two columns to the left, the rest to the right."""
    lines = [_markdown_line(headings), _markdown_line([":--"] * 2 + ["--:"] * (len(headings) - 2))]
    return "\n".join(lines + [_markdown_line(row) for row in rows])


def _markdown_line(cells: Sequence[str]) -> str:
    escaped = (" ".join(cell.replace("|", "\\|").replace("<", "&lt;").split()) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _row(run: Run, label: str) -> ComparisonRow:
    best = run.best_evaluation
    parameters = run.header.model.get("parameters")
    return ComparisonRow(
        run=label,
        objective=run.objective,
        parameters=parameters if isinstance(parameters, int) else None,
        tokens_seen=run.tokens_seen,
        tokens_per_sec=run.tokens_per_sec,
        eval_nll=best.nll if best else None,
        eval_nll_stderr=best.nll_stderr if best else None,
        eval_bpb=best.number("eval_bpb") if best else None,
        eval_ppl=best.number("eval_ppl") if best else None,
        eval_accuracy=best.number("eval_accuracy") if best else None,
        bound=run.bound,
        best_step=best.iter if best else None,
    )


def _settings(run: Run) -> dict[str, Any]:
    settings = {key: value for key, value in run.config.items() if key not in _EXPECTED_TO_DIFFER}
    settings.update({f"data.{key}": value for key, value in run.header.data.items()})
    settings["model.parameters"] = run.header.model.get("parameters")
    return settings


def _fairness_note(found: dict[str, list[Any]]) -> str:
    if not found:
        return (
            "Fairness: the runs differ in their objective only; every other setting, the data and the size are equal."
        )
    listed = "; ".join(
        f"{key}: {' / '.join('not set' if value is None else str(value) for value in values)}"
        for key, values in found.items()
    )
    return f"Fairness: besides the objective these differ: {listed}."
