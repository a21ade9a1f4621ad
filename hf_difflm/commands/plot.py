"""``hf-difflm plot``: pictures of runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from .reading import load


def _logged(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the scalars of the runs on the line that go on from here, for the shell; those of ``runs/`` where none is."""
    from ..runs import load_runs
    from ..runs.plots.scalars import scalar_names

    # A line that ends within a flag is not parsed: its words are in args.
    found, _ = load_runs(ctx.params.get("runs") or [word for word in ctx.args if not word.startswith("-")] or ["runs"])
    before, comma, begun = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in scalar_names(found) if name.startswith(begun)]


def plot(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="runs, folders of runs, log files or globs, mixed")
    ],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND...",
            help="loss_per_step, loss_per_epoch, loss_smoothed, step_time_histogram, mfu, comparison, validation, "
            "milestones; default: all these; and, as callbacks have measured them, gradients, statistics, throughput; and "
            "block_size",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME]...",
            autocompletion=_logged,
            help="any scalar that the runs have logged, each in a picture of its own: eval_rewards/margins, entropy, "
            "grad_norm/layer_03; with it --kind draws nothing by default",
        ),
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="what to call the runs, in their order")
    ] = None,
    title: Annotated[str | None, typer.Option(help="stands above each picture")] = None,
    output_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="folder of the pictures")] = Path("plots"),
    summary: Annotated[bool, typer.Option("--summary", help="print a summary of the runs and draw nothing")] = False,
    format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="png, svg or pdf")] = "png",
    width: Annotated[
        float | None,
        typer.Option(
            metavar="INCHES", help="width of the pictures, with letters to suit it: 3.25 for a column, 6.75 for a page"
        ),
    ] = None,
    no_title: Annotated[
        bool, typer.Option("--no-title", help="no title, where a caption says it; panels of several keep their names")
    ] = False,
    x: Annotated[str, typer.Option(metavar="AXIS", help="step, epoch, tokens, flops or time")] = "step",
) -> None:
    """Draw the curves of runs, each alone or several together; several seeds of one configuration as mean and band.

    Put the runs before --names, --metric and --kind, which take all that follows up to the next flag.
    """
    loaded = load(runs)
    if summary:
        from ..runs.showing.overview import summary_text

        print(summary_text(loaded, names, shutil.get_terminal_size((140, 24)).columns))
        return
    from ..runs.plots.kinds import plot_runs

    metrics = [name for given in metric or () for name in given.split(",") if name]
    plots = plot_runs(
        loaded,
        output_dir,
        kind or (),
        names=names,
        title=title,
        picture_format=format,
        x=x,
        metrics=metrics,
        width=width,
        titles=not no_title,
    )
    for sentence in plots.left_out:
        print(sentence, file=sys.stderr)
    for path in plots.paths:
        print(path)
