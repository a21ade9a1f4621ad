"""Every name a recipe or a flag may set, from the dataclasses that declare it.

Our own fields are known without a heavy import; those of transformers' ``TrainingArguments`` are read when asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, get_type_hints

from ...data.options import DataOptions
from ...models.options import ModelOptions
from ..options import DiffusionOptions
from .monitoring_options import MonitoringOptions
from .trainer_arguments import NO_FLAGS, ROWS

GROUPS: dict[str, type] = {
    "data": DataOptions,
    "model": ModelOptions,
    "training": DiffusionOptions,
    "monitoring": MonitoringOptions,
}


@dataclasses.dataclass(frozen=True)
class Field:
    """One name with its type hint, default and metadata; ``group`` is one of :data:`GROUPS`."""

    name: str
    hint: Any
    default: Any
    metadata: Mapping[str, Any]
    group: str


def fields_of(options: type, group: str) -> dict[str, Field]:
    """Return the ``Field`` of every init field of the dataclass ``options``, by name."""
    hints = get_type_hints(options)
    found = {}
    for field in dataclasses.fields(options):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        found[field.name] = Field(field.name, hints[field.name], default, field.metadata, group)
    return found


@functools.cache
def own_fields() -> dict[str, Field]:
    """Return the fields of the options of all :data:`GROUPS`, in that order; no heavy import."""
    return {name: field for group, options in GROUPS.items() for name, field in fields_of(options, group).items()}


@functools.cache
def trainer_fields() -> dict[str, Field]:
    """Return the fields of TrainingArguments that are neither ours nor refused; imports transformers (seconds)."""
    from transformers import TrainingArguments

    theirs = {
        name: dataclasses.replace(field, metadata={**field.metadata, **_said_of(name)})
        for name, field in fields_of(TrainingArguments, "training").items()
    }
    return {name: field for name, field in theirs.items() if name not in own_fields() and name not in NO_FLAGS}


def _said_of(name: str) -> Mapping[str, Any]:
    row = ROWS.get(name)
    return {} if row is None else {**row.bounds, "words": row.words}


def find_field(name: str) -> Field | None:
    """Return the field called ``name``, or None; imports transformers only if the name is not one of ours."""
    return own_fields().get(name) or trainer_fields().get(name)
