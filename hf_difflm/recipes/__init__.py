"""Recipes: one YAML an experiment, found by name or as a file, that may inherit from another by ``base:``.

A recipe is a mapping of setting names to values. Besides those it may hold ``base:`` (the recipe below it),
``description:`` and a mapping under the name of an objective (``mdlm:``, ``ar:``) with keys for that objective only.
The values are checked in ``hf_difflm.experiments.recipe_settings``; in here they are only read and laid over each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import UserError, did_you_mean

FOLDER = Path(__file__).parent
SUFFIXES = (".yaml", ".yml")
OF_A_DATA_SET = ("dataset_config", "text_column", "train_split", "eval_split", "eval_dataset")
"""Keys that say what is where in one data set, and nothing of another."""

OF_A_NETWORK = (
    "backbone",
    "backbone_config",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
    "tokenizer",
)
"""Keys that weights decide which a training begins with."""

OF_A_BEGINNING = (
    "count_law",
    "count_law_exponent",
    "count_law_centre",
    "count_law_width",
    "count_law_uniform_share",
    "loss_weight",
)
"""Keys that were measured where networks begin with nothing, and say nothing of those that have learnt."""

OF_MUON = ("optim", "adamw_learning_rate", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs")
"""So do these, where the optimiser is Muon: its rates are none for AdamW."""


class Sourced(NamedTuple):
    """A value and the recipe that gave it ("recipe demo"); the source of a flag is empty."""

    value: Any
    source: str


@dataclass(frozen=True)
class Layer:
    """What one recipe file, or the command line, says for itself."""

    source: str
    values: dict[str, Any]
    by_objective: dict[str, dict[str, Any]] = field(default_factory=dict)
    description: str | None = None


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; here the second one is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe_layers(recipe: str, objectives: Sequence[str]) -> list[Layer]:
    """Return the recipe and all it inherits from, the deepest base first.

    Raises:
        UserError: no such recipe or file, not a YAML mapping, or bases that run in a circle.
    """
    layers: list[Layer] = []
    chain: list[Path] = []
    path: Path | None = _find(recipe, beside=Path())
    while path is not None:
        source = _source(path)
        if path in chain:
            steps = " -> ".join(step.stem for step in [*chain[chain.index(path) :], path])
            raise UserError(f"in {source}: base leads back to itself ({steps}); remove one of these base lines")
        chain.append(path)
        content = read_mapping(path, source)
        base = content.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise UserError(f"in {source}: base must be the name or file of one recipe, got {base!r}")
        layers.insert(0, _layer(source, content, objectives))
        path = _find(base, beside=path.parent, within=source) if base is not None else None
    return layers


def overlay(layers: Iterable[Layer], objectives: Sequence[str]) -> dict[str, dict[str, Sourced]]:
    """Lay the later layers over the earlier ones and return the values of each objective.

    A plain key overrides what a lower layer says, for one objective or for all. A layer that gives both the micro-batch
    and the accumulation, and no global batch size, overrides a lower layer's global batch size: it has said it all. One
    that names another data set overrides what lower layers say of theirs (:data:`OF_A_DATA_SET`), one that names weights to
    begin with what they say of a new network (:data:`OF_A_NETWORK`)
    and of how it is best trained (:data:`OF_A_BEGINNING`, and all that is Muon's).
    """
    result: dict[str, dict[str, Sourced]] = {objective: {} for objective in objectives}
    for layer in layers:
        for objective, values in result.items():
            new = layer.values | layer.by_objective.get(objective, {})
            if {"per_device_train_batch_size", "gradient_accumulation_steps"} <= new.keys():
                values.pop("global_batch_size", None)
            if "dataset" in new and "dataset" in values and values["dataset"].value != new["dataset"]:
                for key in OF_A_DATA_SET:
                    values.pop(key, None)
            if new.get("init_from") is not None:
                is_muon = "optim" in values and values["optim"].value == "muon"
                for key in (*OF_A_NETWORK, *OF_A_BEGINNING, *(OF_MUON if is_muon else ())):
                    values.pop(key, None)
            values.update({key: Sourced(value, layer.source) for key, value in new.items()})
    return result


def _find(recipe: str, beside: Path, within: str = "") -> Path:
    """Return the file of a recipe: a shipped name first, else a path relative to ``beside``."""
    if recipe in recipe_names():
        return (FOLDER / f"{recipe}.yaml").resolve()
    path = beside / Path(recipe).expanduser()
    if path.is_file():
        return path.resolve()
    where = f"in {within}: base " if within else ""
    if recipe.endswith(SUFFIXES) or "/" in recipe:
        raise UserError(f"{where}recipe file {recipe} does not exist; check the path, or run `hf-difflm recipes`")
    hint = did_you_mean(recipe, recipe_names()) or "; run `hf-difflm recipes` to list them, or give a .yaml file"
    raise UserError(f"{where}recipe {recipe!r} is unknown{hint}")


def _source(path: Path) -> str:
    return f"recipe {path.stem}" if path.parent == FOLDER.resolve() else f"recipe {path.name}"


def read_mapping(path: Path, source: str) -> dict[str, Any]:
    """Return a YAML file that is a mapping, its keys in snake_case; no key may be there twice.

    Raises:
        UserError: it is none.
    """
    try:
        # UniqueKeyLoader is a SafeLoader: it builds plain values only.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{source} cannot be read as YAML ({path}): {reason}") from error
    return _string_keys(content if content is not None else {}, f"{source} ({path})")


def _layer(source: str, content: dict[str, Any], objectives: Sequence[str]) -> Layer:
    description = content.pop("description", None)
    if description is not None and not isinstance(description, str):
        raise UserError(f"in {source}: description must be text, got {description!r}")
    by_objective = {}
    for objective in objectives:
        if objective in content:
            part = content.pop(objective)
            by_objective[objective] = _string_keys(part if part is not None else {}, f"{objective} in {source}")
    return Layer(source, content, by_objective, description)


def _string_keys(content: Any, where: str) -> dict[str, Any]:
    """Return a mapping with its keys in snake_case, as recipes may write them like flags."""
    if not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping of setting names to values, got {type(content).__name__}")
    named: dict[str, Any] = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name in named:
            raise UserError(f"{where} gives {name} twice; remove one")
        named[name] = value
    return named
