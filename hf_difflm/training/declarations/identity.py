"""Which settings make a run the experiment that it is, and which only watch it, cut it up or place it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..optimization.stable_decay import STABLE_DECAY, decay_start
from .fields import find_field, own_fields
from .monitoring_options import MonitoringOptions

# Settings of ours that change how a run is watched, cut up or placed, but not which run it is ...
NOT_IDENTITY = frozenset(
    {
        "bf16",
        "eval_steps",
        "eval_strategy",
        "experiment_name",
        "gradient_accumulation_steps",
        "head_chunk_rows",
        "hub_license",
        "log_dir",
        "log_eval_only",
        "log_save_interval",
        "logging_steps",
        "lora_merge",
        "num_preprocessing_workers",
        "peak_flops",
        "per_device_eval_batch_size",
        "per_device_train_batch_size",
        "report_to",
        "run_name",
        "save_log_to_json",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "static_shapes",
        "use_cpu",
        *(field.name for field in dataclasses.fields(MonitoringOptions)),
    }
)
# ... and those of TrainingArguments that do: a run with another value is another run.
TRAINER_IDENTITY = frozenset(
    {
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "data_seed",
        "lr_scheduler_kwargs",
        "neftune_noise_alpha",
        "optim",
        "optim_args",
        "optim_target_modules",
    }
)

Changes = dict[str, tuple[Any, Any]]
"""Name of a setting to (recorded, wanted)."""


def another_experiment(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> Changes:
    """The differing settings of two flat mappings that make one of them another experiment; what is left out is a default."""
    names = (own_fields().keys() - NOT_IDENTITY) | (TRAINER_IDENTITY & (recorded.keys() | wanted.keys()))
    return _differing(names, recorded, wanted)


def only_watching(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> Changes:
    """The differing settings that a run may change when it is resumed."""
    return _differing(
        (NOT_IDENTITY & own_fields().keys()) - {"log_dir"}, recorded, wanted
    )  # which a folder may move with


def refusal(what: str, changed: Changes, wanted: Mapping[str, Any]) -> str:
    """A sentence that names every change and what to do.

    Args:
        what: what cannot be done, e.g. ``cannot resume runs/a``.
        changed: the changes.
        wanted: all wanted settings.
    """
    now = in_words([f"{name} = {new!r}" for name, (_, new) in changed.items()])
    then = in_words([f"{was!r}" if len(changed) == 1 else f"{name} = {was!r}" for name, (was, _) in changed.items()])
    if changed.keys() == {"global_batch_size"} and (hint := _accumulation_hint(*changed["global_batch_size"], wanted)):
        advice = hint
    elif changed.keys() <= {"max_steps", "num_train_epochs"}:
        advice = (
            f"the learning-rate schedule is made for the whole length{_moved_decay(changed, wanted)}; train on from its "
            "weights with --init-from in another --output-dir"
        )
    else:
        advice = "give the same recipe and flags, or start another run"
    return f"{what} with {now}, since it was started with {then}; {advice}"


def _moved_decay(changed: Changes, wanted: Mapping[str, Any]) -> str:
    """When the decay of a ``warmup_stable_decay`` would begin with another length, and when it did."""
    steps, given = changed.get("max_steps", (-1, -1)), wanted.get("lr_scheduler_kwargs")
    if _value(wanted, "lr_scheduler_type") != STABLE_DECAY or min(steps) < 1 or not isinstance(given, dict):
        return ""
    was, now = (decay_start(given, count) for count in steps)
    return "" if was is None else f", and would decay from step {now} on instead of step {was}"


def in_words(parts: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def as_lines(changes: Changes) -> list[str]:
    """One line for each change that is let through."""
    return [f"resuming with {name} = {new!r} (was {was!r})" for name, (was, new) in changes.items()]


def _accumulation_hint(was: int, wanted_size: int, wanted: Mapping[str, Any]) -> str | None:
    """What keeps the optimiser batch where it follows from the number of processes, or None where it was given."""
    accumulation = _value(wanted, "gradient_accumulation_steps")
    micro_batches = _value(wanted, "per_device_train_batch_size") * int(os.environ.get("WORLD_SIZE", "1"))
    follows = isinstance(was, int) and wanted_size == micro_batches * accumulation
    return keeping(was, micro_batches) if follows else None


def keeping(global_batch_size: int, micro_batches: int) -> str:
    """Advice on the accumulation that makes ``global_batch_size`` of ``micro_batches`` sequences (over all processes)."""
    needed, rest = divmod(global_batch_size, micro_batches)
    if rest:
        return (
            f"the optimiser batch of {global_batch_size} sequences is no multiple of the {micro_batches} that all processes "
            f"take at once; lower per_device_train_batch_size and give global_batch_size {global_batch_size}"
        )
    return f"gradient_accumulation_steps {needed} keeps the optimiser batch of {global_batch_size} sequences"


def _differing(names: Iterable[str], recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> Changes:
    pairs = {name: (_value(recorded, name), _value(wanted, name)) for name in sorted(names)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _value(config: Mapping[str, Any], name: str) -> Any:
    """A setting as JSON would give it back, its default where it is not in ``config``."""
    field = find_field(name)
    value = config[name] if name in config or field is None else field.default
    value = getattr(value, "value", value)  # an enumeration of transformers'
    return list(value) if isinstance(value, tuple) else value
