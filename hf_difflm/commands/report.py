"""``hf-difflm report``: numbers, curves and texts of runs on one page, written from their logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError
from .reading import load

_SUFFIXES = (".html", ".md")


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="runs, folders of runs, log files or globs, mixed")
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="page to write: .html (interactive, one file) or .md (a picture beside it)"),
    ],
    names: Annotated[
        list[str] | None, typer.Option(metavar="NAME...", help="what to call the runs, in their order")
    ] = None,
    title: Annotated[str | None, typer.Option(help="title of the page")] = None,
) -> None:
    """Write a page about runs: numbers with their standard errors, fairness check, curves, samples and settings.

    Put the runs before --names, which takes all that follows up to the next flag.
    """
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; give a file, e.g. {output / 'report.html'}")
    if output.suffix.lower() not in _SUFFIXES:
        raise UserError(
            f"--output {output} ends neither in .html nor in .md, the two kinds of pages; give it one of them"
        )
    loaded = load(runs)
    if output.suffix.lower() == ".html":
        from ..runs.pages.html import write_html_report

        paths: tuple[Path, ...] = (write_html_report(loaded, output, names=names, title=title),)
    else:
        from ..runs import write_report

        paths = write_report(loaded, output, names=names, title=title or "Results")
    for path in paths:
        print(path)
