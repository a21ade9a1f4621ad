"""``hf-difflm ablate``: what each part of a method does, over several seeds, from finished runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..experiments.recipe_settings import Settings, load_settings
from ..training.declarations.fields import own_fields
from .application import INTERRUPTED
from .flags import given_flags, with_flags
from .help_pages import HelpAll
from .several_values import whole_numbers
from .spelling import declared_flags


@with_flags(field for name, field in own_fields().items() if name not in ("objective", "seed"))
def ablate(
    ctx: typer.Context,
    grid: Annotated[str, typer.Argument(metavar="NAME|FILE", help="an ablation that comes along, or a YAML file")],
    output_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="folder of all runs; default: runs/ablation-NAME")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="1,2,3", help="train each variant once with each of these")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="markdown page; default: ablation.md in the folder")
    ] = None,
    logs: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="keep logs of finished runs there, compressed; take those of runs that are not here",
        ),
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="train nothing; write the table of what is finished")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="train again what is already finished there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the table as JSON, alone on stdout")] = False,
    help_all: HelpAll = False,
    **flags: Any,
) -> None:
    """Train the variants of a grid, one factor at a time, and say which differences are real.

    What is finished is reused and what was stopped goes on, so the same command can be given again. Flags apply to
    every variant. A variant gets numbers only when all of its runs are finished.
    """
    from ..experiments.ablation.grid import load_grid

    wanted = load_grid(grid)
    if seeds is not None and wanted.rounds:
        raise UserError(
            f"--seeds has no use here, since the rounds of {wanted.name} have seeds of their own; leave it out"
        )
    if seeds is not None:
        wanted = replace(wanted, seeds=tuple(whole_numbers("--seeds", seeds)))
    if report_only and overwrite:
        raise UserError("--report-only and --overwrite exclude each other; give one of them")
    given, declared = given_flags(ctx, flags), declared_flags(ctx)
    for name, instead in (("objective", "set it in a variant"), ("seed", "use --seeds"), ("resume", "leave it out")):
        if name in given:
            raise UserError(f"flag --{name} has no use here, since the grid decides what is trained; {instead}")

    def load(values: Mapping[str, Any]) -> Settings:
        # Variants of several objectives share the flags: each takes those that are for it.
        return load_settings(wanted.recipe, {**values, **given}, declared, typed=())

    from ..experiments.ablation.running import run_ablation
    from .quiet import quiet_libraries

    quiet_libraries()
    folder = output_dir or Path("runs") / f"ablation-{wanted.name}"
    # With --json the table is alone on stdout: what the trainings say goes with the progress.
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        tables = run_ablation(
            wanted, load, folder, overwrite=overwrite, report_only=report_only, page=output, logs=logs
        )
    if tables is None:
        print("go on with the same command", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    if not tables[0].entries:  # another process writes
        return
    if as_json:
        data = [table.data() for table in tables]
        print(json.dumps(data if wanted.rounds else data[0], indent=2, allow_nan=False))
    else:
        width = shutil.get_terminal_size((160, 24)).columns
        print("\n\n".join(table.to_text(width) for table in tables))
        print(f"\npage {output or folder / 'ablation.md'}")
