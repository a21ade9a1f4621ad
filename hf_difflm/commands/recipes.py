"""``hf-difflm recipes``: what ships with the package, and what a recipe says once its bases are resolved."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from ..recipes import overlay, recipe_layers, recipe_names
from ..training.options import OBJECTIVES
from ..training.settings import load_settings


def recipes(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="print this recipe with all it inherits, as YAML")
    ] = None,
) -> None:
    """List the recipes, or print one with all that it inherits."""
    if recipe is None:
        width = max(len(name) for name in recipe_names())
        for name in recipe_names():
            print(f"{name:<{width}}  {_description(name)}".rstrip())
    else:
        print(_resolved(recipe), end="")


def _description(recipe: str) -> str:
    """Return the description nearest to the top: a recipe without one is described by its base."""
    descriptions = [layer.description for layer in recipe_layers(recipe, OBJECTIVES) if layer.description]
    return " ".join(descriptions[-1].split()) if descriptions else ""


def _resolved(recipe: str) -> str:
    """Return the recipe as one YAML without a base: shared keys, then those of each objective."""
    for objective in OBJECTIVES:
        load_settings(recipe, {"objective": objective})  # says what is wrong with it, as training would
    by_objective = {
        objective: {name: entry.value for name, entry in entries.items()}
        for objective, entries in overlay(recipe_layers(recipe, OBJECTIVES), OBJECTIVES).items()
    }
    first, *others = by_objective.values()
    shared = {name: value for name, value in first.items() if all(value == other.get(name) for other in others)}
    content: dict[str, Any] = {"description": _description(recipe)} if _description(recipe) else {}
    content |= shared
    for objective, values in by_objective.items():
        own = {name: value for name, value in values.items() if name not in shared}
        content |= {objective: own} if own else {}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
