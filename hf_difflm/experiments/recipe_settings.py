"""Settings of a run: a recipe, overridden by flags, typed and checked before anything heavy is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..callbacks.measuring.alarms import check_kinds
from ..data.options import DataOptions, mixture_of
from ..errors import UserError
from ..evaluation.likelihood.draws import Draws
from ..models.options import ModelOptions
from ..objectives.names import OBJECTIVES
from ..recipes import OF_A_BEGINNING, OF_A_DATA_SET, OF_A_NETWORK, OF_MUON, Layer, Sourced, overlay, recipe_layers
from ..runs.journal.quantities import evaluation_quantity, ranked
from ..runs.journal.redaction import REDACTED
from ..training.declarations.fields import find_field, own_fields, trainer_fields
from ..training.declarations.monitoring_options import MonitoringOptions
from ..training.declarations.other_names import hint_for
from ..training.declarations.trainer_arguments import NO_FLAGS
from ..training.declarations.typed_values import typed_value
from ..training.noise_combinations import check_noise, read_block_sizes
from ..training.options import DiffusionOptions

_LORA = ("lora_alpha", "lora_dropout", "lora_target_modules", "lora_merge")  # say how, where lora_r says that


@dataclass(frozen=True)
class StartingPoint:
    """The weights that training begins with.

    Args:
        folder: a model folder.
        name: what the user knows it as.
        parent: id of the run that made them, else their name, with the commit where they come from the Hub.
        is_checkpoint: of this very run, whose weights the Trainer loads once more.
        ancestry: what they were made from, see :func:`~hf_difflm.evaluation.ancestry.ancestry`.
    """

    folder: Path
    name: str
    parent: str
    is_checkpoint: bool = False
    ancestry: dict[str, Any] = field(default_factory=dict)


@dataclass
class Settings:
    """What a run is made of.

    Attributes:
        data, model: the options of the data and of the network.
        training: typed values for ``DiffusionTrainingArguments``: every field of ``DiffusionOptions``, and those
            further fields of ``TrainingArguments`` that were given.
        monitoring: how the run is watched.
        recipe: the recipe's name or file as given, or None.
        given: what recipe and flags set explicitly, typed; all else is a default.
        start: the weights that training begins with, where they have been found already.
        named_after: what a run is called by default: its recipe, or the data set where that is another than the recipe's.
        notes: sentences on what of the recipe does not count.
    """

    data: DataOptions
    model: ModelOptions
    training: dict[str, Any]
    monitoring: MonitoringOptions = field(default_factory=MonitoringOptions)
    recipe: str | None = None
    given: dict[str, Any] = field(default_factory=dict)
    start: StartingPoint | None = None
    named_after: str = DataOptions.dataset
    notes: list[str] = field(default_factory=list)


def load_settings(
    recipe: str | None,
    flags: Mapping[str, Any],
    other_flags: Iterable[str] = (),
    *,
    typed: Collection[str] | None = None,
    beside: Collection[str] = (),
) -> Settings:
    """Return the settings of one run: defaults < recipe (its bases first) < flags.

    Args:
        recipe: name of a shipped recipe, or path of a YAML file.
        flags: values by snake_case name, as text or already typed; ``no_<name>: True`` switches a boolean off.
        other_flags: further flags of the command line, so that a misspelt one is recognised.
        typed: names of the flags that the user gave, which must be of use; None: all of them. What recipes, recorded runs
            and variants say for another objective is passed over.
        beside: objectives that are trained with the same flags, which may be for them.

    Raises:
        UserError: unknown recipe, key or flag, a flag that is for another objective, or a value of the wrong type, out
            of range or at odds with another.
    """
    layers = recipe_layers(recipe, OBJECTIVES) if recipe is not None else []
    layers.append(Layer("", _positive_names(flags)))
    for layer in layers:
        _refuse_unknown(layer, other_flags)
    values = overlay(layers, OBJECTIVES)
    objective = _objective(layers)
    _refuse_idle(layers[-1].values if typed is None else typed, objective, beside)
    given = {name: _typed(name, entry) for name, entry in values[objective].items()}
    defaults = DiffusionOptions()
    training = {
        option.name: typed_value(own_fields()[option.name], getattr(defaults, option.name))
        for option in dataclasses.fields(DiffusionOptions)
    }
    settings = Settings(
        data=DataOptions(**_of_group("data", given)),
        model=ModelOptions(**_of_group("model", given)),
        training=training | _of_group("training", given) | {"objective": objective},
        monitoring=MonitoringOptions(**_of_group("monitoring", given)),
        recipe=recipe,
        given=given,
        notes=_left_out(layers, objective, values[objective]),
    )
    own_data = "dataset" in given and not values[objective]["dataset"].source
    settings.named_after = settings.data.dataset if recipe is None or own_data else recipe
    _check_together(settings, values[objective], layers[-1].values if typed is None else typed)
    settings.training["diffusion_block_size"] = _last_block_size(settings.training)
    return settings


def resumed_settings(
    recorded: Mapping[str, Any], flags: Mapping[str, Any], other_flags: Iterable[str] = ()
) -> Settings:
    """Return the settings that a run log records, overridden by flags.

    Args:
        recorded: ``config`` of the run log; keys that this version does not know, and secrets, are left out.
        flags, other_flags: see :func:`load_settings`.

    Raises:
        UserError: see :func:`load_settings`.
    """
    known = {name: value for name, value in recorded.items() if find_field(name) is not None and value != REDACTED}
    settings = load_settings(None, known | dict(flags), other_flags, typed=_positive_names(flags))
    settings.recipe = recorded.get("recipe")
    return settings


def _positive_names(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``no_gradient_checkpointing: True`` into ``gradient_checkpointing: False``; all else stays."""
    named: dict[str, Any] = {}
    for name, value in flags.items():
        field = find_field(name[3:]) if name.startswith("no_") and value is True else None
        named.update({name: value} if field is None else {field.name: False})
    return named


def _refuse_unknown(layer: Layer, other_flags: Iterable[str]) -> None:
    """Raise UserError on a key of ``layer`` that no field has, naming the nearest that exists."""
    parts = [layer.values, *layer.by_objective.values()]
    for name in [name for part in parts for name in part if name not in own_fields()]:
        prefix = f"in {layer.source}: " if layer.source else ""
        if name in NO_FLAGS:
            raise UserError(f"{prefix}{name} {NO_FLAGS[name]}")
        if find_field(name) is not None:
            continue
        names = [*own_fields(), *trainer_fields()]
        if layer.source:
            known = [*names, *OBJECTIVES, "base", "description"]
            hint = hint_for(name, known, flag=False) or "; run `hf-difflm train --help-all` to see all keys"
            raise UserError(f"{prefix}key {name!r} is unknown{hint}")
        hint = hint_for(name, [*names, *other_flags], flag=True) or "; --help-all lists all flags"
        raise UserError(f"flag --{name.replace('_', '-')} is unknown{hint}")
    for objective, part in layer.by_objective.items():
        if "objective" in part:
            raise UserError(f"in {layer.source}: objective cannot stand under {objective}: move it out of that mapping")


def _refuse_idle(flags: Iterable[str], objective: str, beside: Collection[str]) -> None:
    """Raise UserError on a flag that has no effect on this objective, nor on those trained beside it."""
    for name in flags:
        own = own_fields()[name].metadata.get("objectives") if name in own_fields() else None
        if own is not None and not {objective, *beside} & set(own):
            raise UserError(
                f"flag --{name.replace('_', '-')} is for the objective {own[0]}, but the objective is {objective}; "
                f"leave it out, or train with --objective {own[0]}"
            )


def _left_out(layers: Iterable[Layer], objective: str, values: Mapping[str, Sourced]) -> list[str]:
    """Say which keys of a recipe's own data set or network do not count, since others are given."""
    found: dict[tuple[str, str], list[str]] = {}
    for layer in layers:
        said = layer.values | layer.by_objective.get(objective, {})
        for what, keys in _LEFT_OUT.items():
            for name in keys:
                if name in said and name not in values and said[name] != _default(name):
                    found.setdefault((layer.source, what), []).append(name)
    return [
        f"left out {', '.join(names)} of {source}, which {'is' if len(names) == 1 else 'are'} {what}"
        for (source, what), names in found.items()
    ]


_LEFT_OUT = {
    "of its own data set": OF_A_DATA_SET,
    "of its own network": OF_A_NETWORK,
    "for a network that begins with nothing": (*OF_MUON, *OF_A_BEGINNING),
}
"""What keys of a recipe are, where they do not count."""


def _default(name: str) -> Any:
    field = find_field(name)
    return None if field is None else field.default


def _objective(layers: list[Layer]) -> str:
    """Return the objective, read from the plain keys first: it decides which of the recipe's mappings count."""
    entry = Sourced(DiffusionOptions.objective, "")
    for layer in layers:
        if "objective" in layer.values:
            entry = Sourced(layer.values["objective"], layer.source)
    return _typed("objective", entry)


def _typed(name: str, entry: Sourced) -> Any:
    field = find_field(name)
    if field is None:
        raise KeyError(name)  # unknown names were refused before
    given = entry.value
    if name == "dataset" and isinstance(given, dict):  # a mixture, in a recipe
        given = " ".join(f"{part}={share}" for part, share in given.items())
    try:
        value = typed_value(field, given)
        if name == "dataset":
            mixture_of(value)
    except UserError as error:
        if entry.value is True and not entry.source:
            raise UserError(f"{name} needs a value") from None  # a flag that only TrainingArguments knows, alone
        raise UserError(f"in {entry.source}: {error}" if entry.source else str(error)) from None
    return value


def _of_group(group: str, given: Mapping[str, Any]) -> dict[str, Any]:
    # What is not one of ours is a field of TrainingArguments.
    names = {name: own_fields()[name].group if name in own_fields() else "training" for name in given}
    return {name: value for name, value in given.items() if names[name] == group}


_OF_NOISE = (
    "count_law",
    "loss_weight",
    "noise_sampling",
    "static_shapes",
    "loss_form",
    "diffusion_block_size",
    "diffusion_block_size_schedule",
)


def _last_block_size(training: Mapping[str, Any]) -> int | None:
    """Tokens of a diffusion block at the end of training, which are the model's."""
    sizes = read_block_sizes(training["diffusion_block_size_schedule"])
    return sizes[-1] if sizes else training["diffusion_block_size"]


def _check_together(settings: Settings, values: Mapping[str, Sourced], typed: Collection[str]) -> None:
    """Raise UserError where two values, each right by itself, cannot stand together."""
    data, model, training = settings.data, settings.model, settings.training

    def fail(sentence: str, *names: str) -> None:
        sources = {values[name].source for name in names if name in values} - {""}
        raise UserError(f"in {', '.join(sorted(sources))}: {sentence}" if sources else sentence)

    try:
        check_noise(training)
    except UserError as error:
        fail(str(error), *_OF_NOISE)
    blocks = _last_block_size(training)
    if blocks is not None and blocks > data.block_size:
        fail(
            f"diffusion_block_size must be at most block_size ({data.block_size}), got {blocks}",
            "diffusion_block_size",
            "diffusion_block_size_schedule",
            "block_size",
        )
    longest = model.max_position_embeddings
    if longest is not None and data.block_size > longest:
        fail(
            f"block_size must be at most max_position_embeddings ({longest}), got {data.block_size}",
            "block_size",
            "max_position_embeddings",
        )
    if model.hidden_size % model.num_attention_heads and "head_dim" not in model.backbone_config:
        fail(
            f"hidden_size must be a multiple of num_attention_heads ({model.num_attention_heads}), "
            f"got {model.hidden_size}",
            "hidden_size",
            "num_attention_heads",
        )
    try:
        check_kinds(settings.monitoring.fail_on)
    except UserError as error:
        fail(str(error), "fail_on")
    try:
        Draws(training["eval_replicates"], training["target_stderr"], training["max_eval_replicates"])
    except UserError as error:
        fail(str(error), "target_stderr", "max_eval_replicates", "eval_replicates")
    idle = [name for name in _LORA if name in typed or training[name] != own_fields()[name].default]
    if training["lora_r"] is None and idle:
        fail(
            f"{idle[0]} has no effect without lora_r, the rank of the adapters; add it, or leave {idle[0]} out", idle[0]
        )
    if training["lora_r"] is not None and model.init_from is None:
        fail("lora_r trains adapters beside weights that exist; add init_from, the model that has them", "lora_r")
    steps, warmup = training["max_steps"], training["warmup_steps"]
    if 1 <= steps < warmup and {"max_steps", "warmup_steps"} <= set(typed):
        fail(f"warmup_steps {warmup:g} are more than max_steps {steps}, so that the peak is never reached; lower them")
    metric = str(training.get("metric_for_best_model") or "loss").removeprefix("eval_")
    found = evaluation_quantity(metric)
    if found is None or not metric.startswith(
        found.name
    ):  # of one set alone: names with a set's in between are Python's
        fail(
            f"metric_for_best_model {training['metric_for_best_model']!r} is no metric of an evaluation; take one of "
            f"{', '.join(ranked())}",
            "metric_for_best_model",
        )
    sizes = training["global_batch_size"], training["gradient_accumulation_steps"]
    if {"global_batch_size", "gradient_accumulation_steps"} <= set(typed) and sizes[0] % sizes[1]:
        fail(
            f"global_batch_size {sizes[0]} is not a multiple of gradient_accumulation_steps {sizes[1]}; give one of them"
        )
    if "generation_prompts" in typed and not settings.monitoring.generate_interval:
        fail("generation_prompts has no effect with generate_interval 0, which draws no samples; leave one of them out")
    if training["sigma_min"] >= training["sigma_max"]:
        fail(
            f"sigma_min must be below sigma_max ({training['sigma_max']:g}), got {training['sigma_min']:g}",
            "sigma_min",
            "sigma_max",
        )
