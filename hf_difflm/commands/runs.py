"""``hf-difflm runs ...``: reading what was logged. Nothing here needs torch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError, did_you_mean
from ..runs.journal.quantities import DIRECTIONS
from ..runs.journal.schema import RUNNING
from .reading import load
from .spelling import Command, Commands

runs_app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show, follow, compare and export the logs of runs.",
)

FORMATS = ("csv", "markdown", "latex", "json", "tensorboard", "wandb")
_TABLE_OF = {"csv": "steps", "markdown": "summary", "latex": "results"}
Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[PATHS]...", help="runs, folders of runs, log files or globs, mixed; default: runs/"),
]
Runs = Annotated[list[Path], typer.Argument(metavar="RUNS...", help="runs, folders of runs, log files or globs, mixed")]
OneRun = Annotated[Path, typer.Argument(metavar="RUN", help="run folder, journal or another program's log")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON, alone on stdout")]


@runs_app.command("list", cls=Command)
def list_runs(paths: Paths = None, as_json: AsJson = False) -> None:
    """List runs, the newest first: status, steps, last training loss, best evaluation."""
    from ..runs.journal.strict_json import dumps
    from ..runs.showing.overview import list_rows, list_text

    runs = load(paths or [], earlier=True)
    print(dumps(list_rows(runs), indent=2) if as_json else list_text(runs, _width()))


@runs_app.command("show", cls=Command)
def show(
    run: OneRun,
    settings: Annotated[bool, typer.Option("--settings", help="print every setting too")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one run: what it is, how far it got, its summary, and mean, minimum, maximum and last of each quantity."""
    from ..runs import load_run
    from ..runs.journal.strict_json import dumps, plain
    from ..runs.showing.overview import show_data, show_text

    found = load_run(run)
    print(dumps(plain(show_data(found)), indent=2) if as_json else show_text(found, _width(), settings))


@runs_app.command("tail", cls=Command)
def tail(
    run: OneRun,
    keep_on: Annotated[bool, typer.Option("--follow", "-f", help="go on until the run ends")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="how many records from the end")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="print the records of the journal as they are")] = False,
) -> None:
    """Print the last records of a run and, with -f, those to come."""
    from ..runs import load_run
    from ..runs.journal.following import describe, follow, journal_of, last_lines, parse

    journal = journal_of(run)

    def tell(line: str) -> None:
        record = parse(line)
        text = line if as_json else None if record is None else describe(record)
        if text is not None:
            print(text, flush=True)

    before, offset = last_lines(journal, lines)
    for line in before:
        tell(line)
    if not keep_on:
        return
    found = load_run(journal)
    if found.status == RUNNING and not found.killed:
        for line in follow(journal, offset, found.header.metadata.get("machine")):
            tell(line)
    if journal.exists() and (death := load_run(journal).death) is not None:
        print(f"{death}; it waits to be resumed", file=sys.stderr)


@runs_app.command("compare", cls=Command)
def compare(runs: Runs, as_json: AsJson = False) -> None:
    """Compare runs by their best evaluations, and list every setting, data property and size that differs.

    Several seeds of one configuration get a line with their mean and its standard error. Two runs are compared paired
    by document over what both were evaluated on, as far as their logs prove it the same.
    """
    from ..runs.comparing.table import compare_runs
    from ..runs.showing.export import comparison_json

    loaded = load(runs)
    if as_json:
        print(comparison_json(loaded))
    else:
        sys.stdout.write(compare_runs(loaded).to_text(_width()))


@runs_app.command("best", cls=Command)
def best(
    paths: Paths = None,
    metric: Annotated[
        str, typer.Option(help="an evaluation metric, a quantity of the steps or a key of the summary")
    ] = "eval_nll",
    direction: Annotated[
        str | None, typer.Option(metavar="lower|higher", help="which is better; known of the metrics that are ours")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the run with the best value of a metric. Of one that is not ours, say which direction is better."""
    if direction is not None and direction not in DIRECTIONS:
        raise UserError(
            f"--direction {direction!r} is unknown{did_you_mean(direction, DIRECTIONS)}; give lower or higher"
        )
    from ..runs.comparing.best import best_run, best_text
    from ..runs.journal.strict_json import dumps, plain

    found = best_run(load(paths or []), metric, direction)
    print(dumps(plain(found), indent=2) if as_json else best_text(found))


@runs_app.command("export", cls=Command)
def export(
    runs: Runs,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help=f"one of {', '.join(FORMATS)}")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE|FOLDER", help="where to write; default: stdout, for text formats")
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(
            help="results (a table for a paper), steps, evaluations, measurements or summary; default: steps for csv, "
            "summary for markdown, results for latex"
        ),
    ] = None,
) -> None:
    """Export runs as csv, markdown, latex or json, as TensorBoard event files, or as offline Weights & Biases runs.

    The table results has nll, perplexity and bits per byte, each with its standard error and ≤ before an upper bound;
    several seeds of one configuration are one line. What differs between the runs is said on stderr.
    """
    if format not in FORMATS:
        raise UserError(
            f"--format {format!r} is unknown{did_you_mean(format, FORMATS)}; the formats are {', '.join(FORMATS)}"
        )
    if table is not None and format not in _TABLE_OF:
        raise UserError(f"--table has no use with --format {format}, which holds everything; leave it out")
    trackers = format in ("tensorboard", "wandb")
    if trackers and output is None:
        raise UserError(f"--format {format} writes a folder; name it with --output FOLDER")
    loaded = load(runs)
    if trackers and output is not None:
        from ..runs.showing.export_trackers import export_tensorboard, export_wandb

        places = (export_tensorboard if format == "tensorboard" else export_wandb)(loaded, output)
        for place in places:
            print(place)
        hint = f"tensorboard --logdir {output}" if format == "tensorboard" else f"wandb sync {places[0]}"
        print(f"next: {hint}", file=sys.stderr)
        return
    from ..runs.showing.export import RESULTS, export_csv, export_json, export_latex, export_markdown

    table = table or _TABLE_OF.get(format)
    if table is None:
        pieces = iter([export_json(loaded)])
    elif format == "csv":
        pieces = export_csv(loaded, table)
    else:
        pieces = iter([(export_latex if format == "latex" else export_markdown)(loaded, table)])
    if table == RESULTS:
        from ..runs.comparing.table import compare_runs

        for note in compare_runs(loaded).notes():
            print(note, file=sys.stderr)
    if output is None:
        sys.stdout.writelines(pieces)
    else:
        from ..runs.showing.export import write_pieces

        print(write_pieces(output, pieces))


@runs_app.command("recover", cls=Command)
def recover(run: OneRun) -> None:
    """Rebuild the JSON files of a run from its journal, after a crash or where they were switched off."""
    from ..runs.derived.rebuild import recover as rebuild

    try:
        paths = rebuild(run)
    except OSError as error:
        raise UserError(
            f"the files of {run} cannot be rebuilt ({error.strerror}); make room there, or copy its journal elsewhere"
        ) from error
    for path in paths:
        print(path)


def _width() -> int:
    return shutil.get_terminal_size((140, 24)).columns
