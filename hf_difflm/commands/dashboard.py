"""``hf-difflm dashboard``: the dashboard of any run, drawn from its log, once or while it grows."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..runs import Run


def dashboard(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder, journal or another program's log")],
    watch: Annotated[bool, typer.Option("--watch", help="draw again as the run goes on, until it ends")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="with --watch: how often to look")] = 5.0,
    output_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="where to write; default: dashboard/ beside the journal")
    ] = None,
) -> None:
    """Draw the dashboard of a run: loss, accuracy, throughput, learning rate, samples and more in one picture.

    Writes training_step_N.png, training_latest.png, metrics_history.json and text_samples.json, and prints the path of
    the picture.
    """
    if not 0 < interval < float("inf"):
        raise UserError(f"--interval is {interval:g}; give a number of seconds above 0")
    if not watch:
        print(_write(_loaded(run), output_dir))
        return
    try:
        _watch(run, interval, output_dir)
    except KeyboardInterrupt:  # the way to stop watching
        return


def _watch(path: Path, interval: float, output_dir: Path | None) -> None:
    """Draw whenever the log has changed, one line each, until the run has ended."""
    from ..runs.journal.run import DEAD
    from ..runs.journal.schema import RUNNING
    from ..runs.journal.tables import count

    seen: tuple[object, ...] = ()
    while True:
        run = _loaded(path)
        death = run.death
        state = run.status if death is None else DEAD
        found = (state, run.last_step, len(run.evaluations), len(run.samples))
        if found != seen:
            seen = found
            picture = _write(run, output_dir)
            print(f"step {count(run.last_step)}, {state}: {picture}", flush=True)
        if run.status != RUNNING:
            return
        if death is not None:
            print(f"{death}; it waits to be resumed", file=sys.stderr)
            return
        time.sleep(interval)


def _loaded(path: Path) -> Run:
    from ..runs import load_run

    return load_run(path)


def _write(run: Run, output_dir: Path | None) -> Path:
    from ..runs.dashboard.files import default_folder, write_dashboard

    folder = output_dir or default_folder(run.path)
    try:
        return write_dashboard(run, folder)
    except OSError as error:
        raise UserError(
            f"the dashboard cannot be written to {str(folder)!r} ({error.strerror}); name another place with --output-dir"
        ) from error
