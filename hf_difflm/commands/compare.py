"""``hf-difflm compare``: the same recipe with each objective, then both side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..training.fields import own_fields
from ..training.settings import Settings, load_settings
from .application import INTERRUPTED
from .flags import given_flags, with_flags
from .help_all import HelpAll
from .parsing import declared_flags


@with_flags(field for name, field in own_fields().items() if name != "objective")
def compare(
    ctx: typer.Context,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="recipe to start from; flags override it")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="folder of both runs and of the comparison")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="train again what is already finished there")] = False,
    help_all: HelpAll = False,
    **flags: Any,
) -> None:
    """Train masked diffusion and its autoregressive twin on the same tokens, and compare them.

    Runs that are already finished with the same settings are reused. Keys under mdlm: and ar: in a recipe apply to
    that objective only; flags apply to both. Takes every flag of transformers' TrainingArguments; --help-all lists
    them.
    """
    given = given_flags(ctx, flags)
    if "objective" in given:
        raise UserError("flag --objective has no use here, since compare trains both; use `hf-difflm train` for one")

    def load(objective: str) -> Settings:
        return load_settings(recipe, given | {"objective": objective}, declared_flags(ctx))

    from ..training.compare import compare_objectives
    from .quiet import quiet_libraries

    quiet_libraries()
    if compare_objectives(load, output_dir=output_dir, overwrite=overwrite) is None:
        raise typer.Exit(INTERRUPTED)
