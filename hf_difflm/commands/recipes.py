"""``hf-difflm recipes``: what ships with the package, and what a recipe says once its bases are resolved."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
import yaml

from ..errors import UserError
from ..experiments.recipe_settings import load_settings
from ..objectives.names import OBJECTIVES
from ..recipes import overlay, recipe_layers, recipe_names
from ..training.launch.configs import launch_configs


def recipes(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[NAME|FILE]", help="print this recipe with all it inherits, as YAML")
    ] = None,
    accelerate: Annotated[
        bool, typer.Option("--accelerate", help="list the configurations for `accelerate launch` and when to use each")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, alone on stdout")] = False,
) -> None:
    """List the recipes, or print one with all that it inherits."""
    if accelerate:
        if recipe is not None:
            raise UserError(
                f"--accelerate lists configurations and takes no recipe, got {recipe!r}; leave one of them out"
            )
        _list_launch_configs(as_json)
    elif recipe is not None:
        content = _resolved(recipe)
        print(
            json.dumps(content, indent=2)
            if as_json
            else yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()
        )
    elif as_json:
        print(json.dumps([{"name": name, "description": _description(name)} for name in recipe_names()], indent=2))
    else:
        width = max(len(name) for name in recipe_names())
        for name in recipe_names():
            print(f"{name:<{width}}  {_description(name)}".rstrip())


def _list_launch_configs(as_json: bool) -> None:
    configs = launch_configs()
    if as_json:
        entries = [{"name": config.name, "path": str(config.path), "use": config.use} for config in configs]
        print(json.dumps(entries, indent=2))
        return
    width = max(len(config.name) for config in configs)
    for config in configs:
        print(f"{config.name:<{width}}  {config.use}\n{'':<{width}}  {config.path}")


def _description(recipe: str) -> str:
    """Return the description nearest to the top: a recipe without one is described by its base."""
    descriptions = [layer.description for layer in recipe_layers(recipe, OBJECTIVES) if layer.description]
    return " ".join(descriptions[-1].split()) if descriptions else ""


def _resolved(recipe: str) -> dict[str, Any]:
    """Return the recipe as one mapping without a base: shared keys, then those of each objective."""
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
    return content
