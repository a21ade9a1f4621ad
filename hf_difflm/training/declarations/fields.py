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

GROUPS: dict[str, type] = {
    "data": DataOptions,
    "model": ModelOptions,
    "training": DiffusionOptions,
    "monitoring": MonitoringOptions,
}

# Fields of TrainingArguments that would be ignored, or would break what the numbers mean, and what to do instead.
REFUSED = {
    "output_dir": "belongs on the command line as --output-dir, since a recipe serves many runs",
    "do_train": "has no use here: run `hf-difflm train`",
    "do_eval": "has no use here: run `hf-difflm eval`, or set eval_strategy",
    "do_predict": "has no use here: run `hf-difflm generate`",
    "resume_from_checkpoint": "has no use here: run `hf-difflm train --resume` with the run's --output-dir",
    "load_best_model_at_end": "has no use here: the weights of the lowest eval_nll are always kept in best/",
    "ignore_data_skip": "would train on the first blocks of an epoch again after a resume: remove it",
    "label_smoothing_factor": "would make the loss no likelihood bound: remove it",
    "auto_find_batch_size": (
        "would change the optimiser batch: set global_batch_size and lower per_device_train_batch_size instead"
    ),
}

# Ranges that TrainingArguments leaves to the library below, which says so in a traceback of its own, or never.
_SHARE = {"min": 0.0, "below": 1.0}
_RANGES: dict[str, Mapping[str, float]] = {
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": {"above": 0.0},
    "neftune_noise_alpha": {"above": 0.0},
    "torch_empty_cache_steps": {"min": 1},
    "eval_delay": {"min": 0.0},
    "eval_accumulation_steps": {"min": 1},
    "data_seed": {"min": 0},
    "dataloader_num_workers": {"min": 0},
    "dataloader_prefetch_factor": {"min": 1},
    "ddp_bucket_cap_mb": {"min": 1},
    "ddp_timeout": {"min": 1},
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
        name: dataclasses.replace(field, metadata={**field.metadata, **_RANGES.get(name, {})})
        for name, field in fields_of(TrainingArguments, "training").items()
    }
    return {name: field for name, field in theirs.items() if name not in own_fields() and name not in REFUSED}


def find_field(name: str) -> Field | None:
    """Return the field called ``name``, or None; imports transformers only if the name is not one of ours."""
    return own_fields().get(name) or trainer_fields().get(name)
