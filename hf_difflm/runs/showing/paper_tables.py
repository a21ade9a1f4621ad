"""The table of a paper: a line a configuration, each number with its standard error and the mark of an upper bound."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..comparing.table import Comparison, ComparisonRow, SeedRow
from ..comparing.verdicts import BOUND, UNTOLD, kind_of
from ..journal.tables import UNKNOWN, count, markdown_table, number, printable, shortened, with_error

# What LaTeX reads as something else than itself.
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"≤": r"$\le$", "±": r"$\pm$", "…": r"\dots{}"},
}
_POWER = re.compile(r"e([+-])0*(\d+)")


@dataclass(frozen=True)
class _Line:
    """A line of the table; each number as (value, standard error), None where unknown."""

    name: str
    objective: str | None
    seeds: Sequence[Any]
    parameters: int | None
    tokens_seen: float | None
    bound: str | None
    nll: tuple[float | None, float | None]
    perplexity: tuple[float | None, float | None]
    bits_per_byte: tuple[float | None, float | None]


def results_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the lines as plain values: those over seeds where several seeds of one configuration were compared.

    The standard errors of a single run's perplexity and bits per byte follow from that of its nll by the delta method:
    both are functions of it.
    """
    return [
        {
            "run": line.name,
            "objective": line.objective,
            "seeds": " ".join(map(str, line.seeds)) or None,
            "parameters": line.parameters,
            "tokens_seen": line.tokens_seen,
            "bound": line.bound,
            **{
                f"{name}{ending}": value
                for name in ("nll", "perplexity", "bits_per_byte")
                for ending, value in zip(("", "_stderr"), getattr(line, name), strict=True)
            },
        }
        for line in _lines(comparison)
    ]


def results_markdown(comparison: Comparison) -> str:
    """Return the table as markdown, with what one must know to read its numbers below it."""
    headings, rows = _table(comparison)
    texts = [[_cell(each) for each in row] for row in rows]
    return f"{markdown_table(headings, texts)}\n\n{' '.join(_legend(comparison))}\n"


def results_latex(comparison: Comparison) -> str:
    """Return the table for LaTeX with the package booktabs; what differs between the runs stands above it as comments.

    The caption says what the numbers are, and nothing of which is better.
    """
    headings, rows = _table(comparison)
    lines = [" & ".join(_latex_cell(each) for each in row) + r" \\" for row in rows]
    comments = [f"% {printable(line)}" for note in comparison.notes() for line in note.splitlines()]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            *comments,
            r"\begin{table}[t]",
            r"  \centering",
            rf"  \caption{{{_latex(' '.join(_legend(comparison)))}}}",
            r"  \label{tab:results}",
            rf"  \begin{{tabular}}{{ll{'r' * (len(headings) - 2)}}}",
            r"    \toprule",
            "    " + " & ".join(map(_latex, headings)) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _lines(comparison: Comparison) -> list[_Line]:
    if comparison.seed_rows:
        return [_over_seeds(row) for row in comparison.seed_rows]
    return [_of_one_run(row) for row in comparison.rows]


def _over_seeds(row: SeedRow) -> _Line:
    return _Line(
        row.configuration,
        row.objective,
        row.seeds,
        row.parameters,
        row.tokens_seen,
        row.bound,
        (row.eval_nll, row.eval_nll_stderr),
        (row.eval_ppl, row.eval_ppl_stderr),
        (row.eval_bpb, row.eval_bpb_stderr),
    )


def _of_one_run(row: ComparisonRow) -> _Line:
    nll, error = row.eval_nll, row.eval_nll_stderr
    # perplexity = exp(nll), so its error is perplexity x error; bits per byte are a multiple of the nll.
    ppl_error = None if error is None or row.eval_ppl is None else row.eval_ppl * error
    bpb_error = None if error is None or row.eval_bpb is None or not nll else abs(row.eval_bpb / nll) * error
    return _Line(
        row.run,
        row.objective,
        (),
        row.parameters,
        row.tokens_seen,
        row.bound,
        (nll, error),
        (row.eval_ppl, ppl_error),
        (row.eval_bpb, bpb_error),
    )


@dataclass(frozen=True)
class _Number:
    """A number as people read it, and whether it is an upper bound."""

    text: str
    is_bound: bool


def _table(comparison: Comparison) -> tuple[list[str], list[list[str | _Number]]]:
    """Headings and cells, without the columns that nothing is known of."""
    lines = _lines(comparison)
    nll = f"NLL ({comparison.unit})" if comparison.unit else "Loss"
    columns: list[tuple[str, list[str | _Number]]] = [
        ("Run", [shortened(line.name) for line in lines]),
        ("Objective", [shortened(line.objective) if line.objective else UNKNOWN for line in lines]),
        ("Seeds", [str(len(line.seeds)) if line.seeds else UNKNOWN for line in lines]),
        ("Parameters", [count(line.parameters) for line in lines]),
        ("Tokens", [count(line.tokens_seen) for line in lines]),
        (nll, [_marked(line, line.nll, 4) for line in lines]),
        ("Perplexity", [_marked(line, line.perplexity, 2) for line in lines]),
        ("Bits/byte", [_marked(line, line.bits_per_byte, 4) for line in lines]),
    ]
    kept = [
        (heading, cells)
        for heading, cells in columns
        if heading in ("Run", "Objective", nll) or any(_cell(cell) != UNKNOWN for cell in cells)
    ]
    return [heading for heading, _ in kept], [list(row) for row in zip(*(cells for _, cells in kept), strict=True)]


def _marked(line: _Line, found: tuple[float | None, float | None], digits: int) -> _Number | str:
    text = _rounded(*found, digits)
    return text if text == UNKNOWN else _Number(text, kind_of(line.bound) == BOUND)


def _rounded(value: float | None, error: float | None, digits: int) -> str:
    """``value ± error`` to the second digit of the error; the value alone, with ``digits`` decimals, where there is none."""
    if value is None or not math.isfinite(value) or not error or not math.isfinite(error):
        return number(value, digits)
    return with_error(value, error, min(max(1 - math.floor(math.log10(error)), 0), 6))


def _legend(comparison: Comparison) -> list[str]:
    """What the numbers are, as sentences."""
    lines = _lines(comparison)
    text = "test" if comparison.split and comparison.on_test else "evaluation set"
    what = "negative log-likelihood per scored token" if comparison.unit else "what each Trainer calls its loss"
    parts = [f"{'NLL' if comparison.unit else 'Loss'} on the {text}: {what}."]
    if any(kind_of(line.bound) == BOUND for line in lines):
        parts.append("≤: an upper bound (NELBO).")
    untold = [shortened(line.name) for line in lines if kind_of(line.bound) == UNTOLD and line.nll[0] is not None]
    if untold:
        parts.append(f"Whether the numbers of {', '.join(untold)} are exact or bounds is not in the logs.")
    if any(error for line in lines for _, error in (line.nll, line.perplexity, line.bits_per_byte)):
        over = "of the mean over seeds" if comparison.seed_rows else "of the estimate"
        parts.append(f"±: one standard error {over}.")
    return [*parts, *comparison.lossy]


def _cell(cell: str | _Number) -> str:
    return cell if isinstance(cell, str) else f"≤ {cell.text}" if cell.is_bound else cell.text


def _latex_cell(cell: str | _Number) -> str:
    if isinstance(cell, str):
        return _latex(cell)
    mathematics = _POWER.sub(lambda found: rf"\times 10^{{{found[1].strip('+')}{found[2]}}}", cell.text)
    mathematics = mathematics.replace("±", r"\pm")
    return rf"$\le {mathematics}$" if cell.is_bound else f"${mathematics}$"


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in printable(text))
