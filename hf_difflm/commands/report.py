"""``hf-difflm report``: numbers and plots of finished runs, written from their logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="folders of runs")],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Markdown file to write; plots go next to it")],
) -> None:
    """Write a report of runs: settings, curves and final numbers with their standard errors."""
    from ..runs import load_run, write_report

    for path in write_report([load_run(run) for run in runs], output):
        print(path)
