"""A markdown page about one run or several, written from their logs alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..comparing.evaluation_table import evaluation_cells, evaluation_headings, evaluation_note
from ..comparing.table import compare_runs, labels
from ..comparing.verdicts import bound_note
from ..journal.run import Run, common_loss_unit
from ..journal.tables import fenced, markdown_table
from ..plots.decimation import smoothing_window
from ..plots.gallery import MOST_PANELS, gallery_names
from ..plots.kinds import plot_block_size, plot_comparison, plot_gallery
from ..plots.size_points import compares_sizes
from ..reading.load import as_runs
from ..reading.places import relative, shown, shown_run
from .curves import not_drawn
from .write_markdown import write_markdown

BLOCK_SIZE = "-block-size"
"""How the name of the picture over the size of diffusion blocks ends."""
_NAMED = 12  # of the scalars that are not drawn
_MAX_SAMPLES = 4  # of the last sampled step


def write_report(
    runs: Sequence[Run | str | Path],
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    title: str = "Results",
    command: str | None = None,
) -> tuple[Path, ...]:
    """Write the page and, next to it, the pictures it shows; return the paths, that of the page first.

    The page holds the comparison table with its fairness note, the curves, of diffusion blocks the nll over their size, a
    gallery of what else the logs hold, every evaluation with its standard error, the last samples and the commands that
    made the runs. No absolute path gets into it.

    Args:
        runs: one or more, or the paths of their logs.
        path: the markdown file; the pictures lie in the same folder: ``{stem}-curves.png``, of diffusion blocks
            ``{stem}-block-size.png``, and ``{stem}-others.png`` where the logs hold other scalars.
        names: what to call the runs; by default their own names.
        title: first heading.
        command: the command that writes this page; by default ``hf-difflm report`` with these runs.

    Raises:
        UserError: no run was given, the names do not fit, or a file cannot be written.
    """
    path, runs = Path(path), as_runs(runs)
    picture = path.with_name(f"{path.stem}-curves.png")
    comparison = compare_runs(runs, names)
    plot_comparison(runs, picture, names=names)
    others = _others(runs, path, names)
    blocks = _block_sizes(runs, path, names)
    if command is None:
        command = shlex.join(["hf-difflm", "report", *(shown_run(run) for run in runs), "--output", shown(path)])
    names = labels(runs, names)
    parts = [
        f"## Comparison\n\n{comparison.to_markdown()}\n{_explanation(runs)}",
        f"## Curves\n\n![training loss and evaluations over optimiser steps]({picture.name})\n\n{_curve_note(runs)}",
        *([f"## Block sizes\n\n![nll over the size of diffusion blocks]({blocks.name})"] if blocks else []),
        *(
            [f"## Other scalars\n\n![scalars by their names in the log]({others[0].name})\n\n{others[1]}"]
            if others
            else []
        ),
        "## Evaluations\n\n" + "\n\n".join(_evaluations(run, name) for run, name in zip(runs, names, strict=True)),
        *_samples(runs, names),
        f"## How these runs were made\n\n{_commands(runs, names)}",
    ]
    write_markdown(path, title, command, parts)
    return (path, picture, *filter(None, [blocks, others[0] if others else None]))


def _block_sizes(runs: Sequence[Run], path: Path, names: Sequence[str] | None) -> Path | None:
    """Draw the nll over the size of diffusion blocks; None where no run has any, or all have the same."""
    if not compares_sizes(runs):
        return None
    return plot_block_size(runs, path.with_name(f"{path.stem}{BLOCK_SIZE}.png"), names)


def _others(runs: Sequence[Run], path: Path, names: Sequence[str] | None) -> tuple[Path, str] | None:
    """Draw the gallery of the page, and say what is in the logs besides; None where they hold no other scalar."""
    scalars = gallery_names(runs)
    if not scalars:
        return None
    picture = plot_gallery(runs, path.with_name(f"{path.stem}-others.png"), scalars, names)
    note = "Hollow diamonds are evaluations; no unit is known of what another program logs."
    rest = [name for name in not_drawn(runs) if name not in scalars]
    rest = [*scalars[MOST_PANELS:], *rest]
    if rest:
        note += f"\nAlso in the logs: {', '.join(rest[:_NAMED])}"
        note += f" and {len(rest) - _NAMED} more" if len(rest) > _NAMED else ""
        note += " (`hf-difflm plot RUN --metric NAME`)."
    return picture, note


def _explanation(runs: Sequence[Run]) -> str:
    lines = [evaluation_note(common_loss_unit(runs))]
    if note := bound_note({run.bound for run in runs}):
        lines.append(note)
    lines.append(
        "Each line quotes the evaluation whose weights are in best/, with the lowest value where no other metric chose it; "
        "its step is the last column."
    )
    return "\n".join(lines)


def _curve_note(runs: Sequence[Run]) -> str:
    windows = sorted({smoothing_window(len(run.steps)) for run in runs} - {1})
    smoothed = f"; the thick line is the mean over {' or '.join(map(str, windows))} of them" if windows else ""
    return f"Left: the loss of every logged training step{smoothed}. Right: the evaluations with standard errors."


def _evaluations(run: Run, name: str) -> str:
    rows = evaluation_cells(run)
    if not rows:
        said = "The evaluations that were logged have no loss." if run.evaluations else "No evaluation was logged."
        return f"### {name}\n\n{said}"
    note = run.headline_note
    note = f"{note[:1].upper()}{note[1:]}.\n\n" if note else ""
    return f"### {name} ({run.shown_status})\n\n{note}{markdown_table(evaluation_headings(run), rows)}"


def _samples(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    parts = []
    for run, name in zip(runs, names, strict=True):
        last = run.samples[-1].iter if run.samples else None
        samples = [record for record in run.samples if record.iter == last][:_MAX_SAMPLES]
        if samples:
            parts.append(f"### {name}, step {last}")
        for record in samples:
            prompt = f"Prompt:\n\n{fenced(record.prompt)}\n\nText:" if record.prompt else "No prompt:"
            parts.append(f"{prompt}\n\n{fenced(record.text)}")
    return ["## Samples", *parts] if parts else []


def _commands(runs: Sequence[Run], names: Sequence[str]) -> str:
    made: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for header in run.headers:
            command = header.metadata.get("command")
            if isinstance(command, str) and name not in made.setdefault(command, []):
                made[command].append(name)
    if not made:
        return "The logs do not say."
    return "\n\n".join(f"{', '.join(found)}:\n\n{fenced(relative(command), 'sh')}" for command, found in made.items())
