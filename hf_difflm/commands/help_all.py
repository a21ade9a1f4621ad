"""``--help-all``: the usual help, and then the flags of TrainingArguments, which take a heavy import to know."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ..training.declarations.fields import trainer_fields


def _print_all(ctx: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    typer.echo(ctx.get_help())
    table = Table(title="Flags of transformers' TrainingArguments", title_justify="left", box=None)
    table.add_column("flag", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=18)
    table.add_column("what", overflow="fold")
    for field in trainer_fields().values():
        default = (
            "" if field.default in (None, dataclasses.MISSING) else str(getattr(field.default, "value", field.default))
        )
        what = " ".join(str(field.metadata.get("help", "")).split()).split(". ")[0]
        table.add_row(*(Text(cell) for cell in (f"--{field.name.replace('_', '-')}", default, what)))
    Console().print(table)
    raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        help="Show all flags, those of TrainingArguments too, and exit.",
        is_eager=True,
        callback=_print_all,
    ),
]
