"""What an ablation compares: a YAML file, as variants of one recipe."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ...errors import UserError, did_you_mean
from ...evaluation.generation.options import GenerationOptions
from ...recipes import FOLDER as RECIPES
from ...recipes import read_mapping

FOLDER = RECIPES / "ablations"
DESIGNS = ("one_factor", "full")
GENERATION_KEYS = frozenset(field.name for field in fields(GenerationOptions)) - {"seed"}
"""Settings that change how text is drawn, and not the weights."""


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        name: as the report calls it.
        settings: recipe keys over those that all variants share.
        generation: options of its samples; variants that differ in these alone share their weights.
        tune: recipe keys that a round tries values of, and the values, as many of each key: those of a place belong together.
    """

    name: str
    settings: dict[str, Any]
    generation: dict[str, Any]
    tune: dict[str, list[Any]] = field(default_factory=dict)

    def tuned(self) -> list[Variant]:
        """The variant with each of the values that it is tried with."""
        choices = [dict(zip(self.tune, values, strict=True)) for values in zip(*self.tune.values(), strict=True)]
        return [
            replace(
                self, name=f"{self.name}, {_settings_in_words(choice)}", settings={**self.settings, **choice}, tune={}
            )
            for choice in choices
        ] or [self]


@dataclass(frozen=True)
class Round:
    """A part of an ablation, whose variants are chosen by the part before.

    Attributes:
        name: of the round, and of its folder.
        seeds: each variant is trained once with each.
        settings: recipe keys over those of the ablation.
        tune: try each variant with each of its values; rounds after it take those with the lowest nll.
        best: so many variants of the round before, those with the lowest nll, beside the baseline; None: all.
    """

    name: str
    seeds: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    tune: bool = False
    best: int | None = None


@dataclass(frozen=True)
class AblationGrid:
    """A whole ablation.

    Attributes:
        name: of the file.
        recipe: name or file of the recipe that the variants are laid over.
        settings: recipe keys that all variants share.
        seeds: each variant is trained once with each.
        variants: in the order of the report.
        baseline: name of the variant that the others are compared with.
        samples: texts drawn from each run, 0 for none.
        reference: name of the variant (a causal LM) whose perplexity of the samples is told; None for none.
        description: what is asked.
        rounds: in their order; none where all variants are trained at once.
    """

    name: str
    recipe: str
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    baseline: str
    samples: int = 16
    reference: str | None = None
    description: str = ""
    rounds: tuple[Round, ...] = ()

    def run_name(self, variant: Variant, seed: int) -> str:
        """Folder of the run whose weights a variant has with this seed."""
        first = next(other for other in self.variants if other.settings == variant.settings)
        return f"{slug(first.name)}-seed{seed}"


@dataclass
class _Content:
    """The keys of the file and what they are when they are left out."""

    recipe: str = "demo"
    description: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    variants: dict[str, Any] = field(default_factory=dict)
    factors: dict[str, Any] = field(default_factory=dict)
    around: str | None = None
    design: str = DESIGNS[0]
    baseline: str | None = None
    samples: int = 16
    reference: str | None = None
    tune: dict[str, Any] = field(default_factory=dict)
    rounds: list[Any] = field(default_factory=list)


def grid_names() -> list[str]:
    """Return the names of the ablations that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_grid(grid: str) -> AblationGrid:
    """Read an ablation that comes with the package, or a YAML file.

    ``variants:`` names settings outright. ``factors:`` maps a key to values: with ``design: one_factor`` each value makes
    a variant that differs from the variant ``around`` (default: the baseline) in that key alone, with ``full`` each
    combination of values does.

    ``rounds:`` is a list of mappings with the keys of :class:`Round`, each an ablation that goes on from the one before;
    ``tune:``, of the file or of a variant, maps keys to the values that a round with ``tune: true`` tries.

    Raises:
        UserError: no such file, or what it says makes no ablation.
    """
    path = _find(grid)
    source = f"ablation {path.name}"
    content = _content(read_mapping(path, source), source)
    variants = {
        name: _mapping({} if values is None else values, f"variant {name}", source)
        for name, values in _mapping(content.variants, "variants", source).items()
    }
    if not variants:
        raise UserError(f"in {source}: variants names nothing to train; give at least one variant")
    baseline = content.baseline or next(iter(variants))
    around = content.around or baseline
    for key, name in (("baseline", baseline), ("around", around), ("reference", content.reference)):
        if name is not None and name not in variants:
            raise UserError(f"in {source}: {key} {name!r} is no variant{did_you_mean(name, list(variants))}")
    variants |= _combined(content, variants[around], around, source)
    return AblationGrid(
        name=path.stem,
        recipe=_recipe(content.recipe, path),
        settings=_mapping(content.settings, "settings", source),
        seeds=_seeds(content.seeds, source),
        variants=tuple(_variant(name, values, content.tune, source) for name, values in variants.items()),
        baseline=baseline,
        samples=content.samples,
        reference=content.reference,
        description=" ".join(content.description.split()),
        rounds=tuple(_round(values, source) for values in content.rounds),
    )


def slug(name: str) -> str:
    """A variant's name, fit for a file name."""
    return re.sub(r"[^\w.+=-]+", "-", name).strip("-.") or "variant"


def _find(grid: str) -> Path:
    if grid in grid_names():
        return FOLDER / f"{grid}.yaml"
    path = Path(grid).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in grid:
        raise UserError(f"ablation file {grid} does not exist; check the path")
    hint = did_you_mean(grid, grid_names()) or f"; there are {', '.join(grid_names())}, or give a .yaml file"
    raise UserError(f"ablation {grid!r} is unknown{hint}")


def _content(values: Mapping[str, Any], source: str) -> _Content:
    known = [key.name for key in fields(_Content)]
    for key in values:
        if key not in known:
            hint = did_you_mean(key, known) or f"; the keys are {', '.join(known)}"
            raise UserError(f"in {source}: key {key!r} is unknown{hint}")
    content = _Content(**{key: value for key, value in values.items() if value is not None})
    if content.design not in DESIGNS:
        raise UserError(f"in {source}: design must be one of {', '.join(DESIGNS)}, got {content.design!r}")
    if not isinstance(content.samples, int) or content.samples < 0:
        raise UserError(f"in {source}: samples must be 0 or a positive integer, got {content.samples!r}")
    return content


def _mapping(value: Any, what: str, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"in {source}: {what} must be a mapping, got {value!r}")
    return {str(key): part for key, part in value.items()}


def _seeds(seeds: Any, source: str) -> tuple[int, ...]:
    whole = isinstance(seeds, list) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not whole or not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"in {source}: seeds must be different whole numbers, got {seeds!r}")
    return tuple(seeds)


def _recipe(recipe: str, path: Path) -> str:
    """A recipe file is looked for beside the grid's."""
    beside = path.parent / recipe
    return str(beside) if beside.is_file() else recipe


def _combined(content: _Content, around: dict[str, Any], name: str, source: str) -> dict[str, dict[str, Any]]:
    factors = {}
    for key, values in _mapping(content.factors, "factors", source).items():
        if not isinstance(values, list) or not values:
            raise UserError(f"in {source}: factor {key} must be a list of values, got {values!r}")
        factors[key.replace("-", "_")] = values
    if content.design == "full":
        changes = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    else:
        changes = [{key: value} for key, values in factors.items() for value in values]
    return {
        f"{name}, {_settings_in_words(change)}": {**around, **change}
        for change in changes
        if change and any(key not in around or around[key] != value for key, value in change.items())
    }


def _settings_in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_word(value)}" for key, value in settings.items())


def _round(values: Any, source: str) -> Round:
    mapping = _mapping(values, "a round", source)
    names = [key.name for key in fields(Round)]
    for key in mapping:
        if key not in names:
            hint = did_you_mean(key, names) or f"; the keys are {', '.join(names)}"
            raise UserError(f"in {source}: key {key!r} of a round is unknown{hint}")
    name, best, tune = mapping.get("name"), mapping.get("best"), mapping.get("tune", False)
    if not isinstance(name, str) or slug(name) != name:
        raise UserError(f"in {source}: each round needs a name that is fit for a folder, got {name!r}")
    if not isinstance(tune, bool):
        raise UserError(f"in {source}: tune of round {name} must be true or false, got {tune!r}")
    if best is not None and not (isinstance(best, int) and best >= 1):
        raise UserError(f"in {source}: best of round {name} must be a positive integer, got {best!r}")
    settings = _mapping(mapping.get("settings", {}), f"settings of round {name}", source)
    return Round(name, _seeds(mapping.get("seeds", [1]), source), settings, tune, best)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]


def _variant(name: str, values: dict[str, Any], tune: Any, source: str) -> Variant:
    plain = {key.replace("-", "_"): value for key, value in values.items()}
    tune = {key.replace("-", "_"): of for key, of in _mapping(plain.pop("tune", tune), "tune", source).items()}
    if any(not isinstance(of, list) or not of for of in tune.values()) or len({len(of) for of in tune.values()}) > 1:
        raise UserError(f"in {source}: tune of {name} must have as many values of each key, in lists, got {tune!r}")
    return Variant(
        name,
        settings={key: value for key, value in plain.items() if key not in GENERATION_KEYS},
        generation={key: value for key, value in plain.items() if key in GENERATION_KEYS},
        tune=tune,
    )
