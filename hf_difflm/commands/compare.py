"""``hf-difflm compare``: the same recipe with each objective, then both side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..evaluation.likelihood.exact_options import EXACT_BLOCKS, ExactOptions, read_orders
from ..experiments.recipe_settings import Settings, load_settings
from ..objectives.names import OBJECTIVES, TWINS
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
    objectives: Annotated[
        str,
        typer.Option(metavar="NAME,NAME", help="what is compared, bd3lm with its block size: ar,bd3lm:4,bd3lm:16,mdlm"),
    ] = ",".join(TWINS),
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
    """Train masked diffusion and its autoregressive twin (or what --objectives says) on the same tokens, and compare them.

    Runs that are already finished with the same settings are reused. Keys under mdlm: and ar: in a recipe apply to
    that objective only; flags apply to both. Takes every flag of transformers' TrainingArguments; --help-all lists
    them.
    """
    given = given_flags(ctx, flags)
    if "resume" in given:
        raise UserError("flag --resume has no use here, since compare always goes on with what it finds; leave it out")
    if "objective" in given:
        raise UserError(
            "flag --objective has no use here, since compare trains several; use --objectives, or `hf-difflm train` for one"
        )

    wanted = {"exact_order": exact_order, "tokens_per_step": tokens_per_step, "exact_blocks": exact_blocks}
    if not exact and (idle := next((name for name, value in wanted.items() if value is not None), None)):
        raise UserError(f"flag --{idle.replace('_', '-')} is for exact likelihoods; add --exact, or leave it out")
    orders = []
    if exact:
        orders = read_orders(ExactOptions(exact_order or ",".join(COMPARED), tokens_per_step or "1"))
    if seeds is not None and "seed" in given:
        raise UserError("--seed and --seeds exclude each other; give one of them")

    sides = _sides(objectives)
    if "diffusion_block_size" in given:
        raise UserError(
            "flag --diffusion-block-size has no use here; give each size its run, --objectives bd3lm:4,bd3lm:16"
        )

    def load(side: str, seed: int | None) -> Settings:
        own = sides[side] if seed is None else {**sides[side], "seed": seed}
        beside = {values["objective"] for values in sides.values()}
        settings = load_settings(recipe, given | own, declared_flags(ctx), beside=beside)
        name = settings.training["experiment_name"]
        if seed is not None or (name is None and "diffusion_block_size" in own):
            name = name or f"{Path(settings.named_after).stem}-{side}"
            settings.training["experiment_name"] = name if seed is None else f"{name}-seed{seed}"
        return settings

    from ..experiments.compare import compare_objectives
    from .quiet import quiet_libraries

    quiet_libraries()
    each = whole_numbers("--seeds", seeds) if seeds is not None else []
    if compare_objectives(load, list(sides), output_dir, overwrite, each, orders, exact_blocks or EXACT_BLOCKS) is None:
        print("go on with the same command", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _sides(text: str) -> dict[str, dict[str, Any]]:
    """The settings of each side by its name, which is that of its folder: ``mdlm``, ``bd3lm-16``."""
    sides: dict[str, dict[str, Any]] = {}
    for written in map(str.strip, text.split(",")):
        objective, colon, size = written.partition(":")
        known = objective in OBJECTIVES and (objective == "bd3lm") is bool(colon)
        if not known or (colon and not (size.isascii() and size.isdigit() and int(size))):
            raise UserError(
                f"--objectives must be of {', '.join(name for name in OBJECTIVES if name != 'bd3lm')} and bd3lm:SIZE with "
                f"commas between them, got {written!r}"
            )
        name = f"{objective}-{int(size)}" if colon else objective
        if name in sides:
            raise UserError(f"--objectives names {written} twice; name each side once")
        sides[name] = {"objective": objective, **({"diffusion_block_size": int(size)} if colon else {})}
    if len(sides) < 2:
        raise UserError(f"--objectives {text} is one side; give two or more, or use `hf-difflm train`")
    return sides
