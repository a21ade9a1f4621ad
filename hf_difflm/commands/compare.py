"""``hf-difflm compare``: the same recipe with each objective, then both side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..evaluation.likelihood.exact_options import EXACT_BLOCKS, ExactOptions, read_orders
from ..experiments.recipe_settings import Settings, load_settings
from ..objectives.names import TWINS
from ..training.declarations.fields import own_fields
from .application import INTERRUPTED
from .flags import given_flags, with_flags
from .help_pages import HelpAll
from .several_values import whole_numbers
from .spelling import declared_flags

COMPARED = ("left_to_right", "confidence", "margin", "entropy")


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
    seeds: Annotated[
        str | None, typer.Option(metavar="1,2,3", help="train each objective once with each of these seeds")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="also the exact likelihood of orders of revealing, beside the bound")
    ] = False,
    exact_order: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help=f"the orders (default: {','.join(COMPARED)})")
    ] = None,
    tokens_per_step: Annotated[
        str | None, typer.Option(metavar="INT|NAME", help="tokens revealed together, see eval (default: 1)")
    ] = None,
    exact_blocks: Annotated[
        int | None, typer.Option(min=1, help=f"evaluation blocks scored exactly, the first (default: {EXACT_BLOCKS})")
    ] = None,
    help_all: HelpAll = False,
    **flags: Any,
) -> None:
    """Train masked diffusion and its autoregressive twin on the same tokens, and compare them.

    Runs that are already finished with the same settings are reused. Keys under mdlm: and ar: in a recipe apply to
    that objective only; flags apply to both. Takes every flag of transformers' TrainingArguments; --help-all lists
    them.
    """
    given = given_flags(ctx, flags)
    if "resume" in given:
        raise UserError("flag --resume has no use here, since compare always goes on with what it finds; leave it out")
    if "objective" in given:
        raise UserError("flag --objective has no use here, since compare trains both; use `hf-difflm train` for one")

    wanted = {"exact_order": exact_order, "tokens_per_step": tokens_per_step, "exact_blocks": exact_blocks}
    if not exact and (idle := next((name for name, value in wanted.items() if value is not None), None)):
        raise UserError(f"flag --{idle.replace('_', '-')} is for exact likelihoods; add --exact, or leave it out")
    orders = []
    if exact:
        orders = read_orders(ExactOptions(exact_order or ",".join(COMPARED), tokens_per_step or "1"))
    if seeds is not None and "seed" in given:
        raise UserError("--seed and --seeds exclude each other; give one of them")

    def load(objective: str, seed: int | None) -> Settings:
        own = {"objective": objective} if seed is None else {"objective": objective, "seed": seed}
        settings = load_settings(recipe, given | own, declared_flags(ctx), beside=TWINS)
        if seed is not None:
            name = settings.training["experiment_name"] or f"{Path(settings.named_after).stem}-{objective}"
            settings.training["experiment_name"] = f"{name}-seed{seed}"
        return settings

    from ..experiments.compare import compare_objectives
    from .quiet import quiet_libraries

    quiet_libraries()
    each = whole_numbers("--seeds", seeds) if seeds is not None else []
    if compare_objectives(load, output_dir, overwrite, each, orders, exact_blocks or EXACT_BLOCKS) is None:
        print("go on with the same command", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
