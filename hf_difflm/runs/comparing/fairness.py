"""Is a comparison fair? Every setting, data property and size that differs between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..journal.run import Run
from ..journal.tables import shortened

# What is meant to differ: the objective, names and places. All other settings should be equal in a fair comparison.
_EXPECTED_TO_DIFFER = {
    "experiment_name",
    "hub_model_id",
    "log_dir",
    "logging_dir",
    "objective",
    "output_dir",
    "overwrite",
    "resume",
    "resume_from_checkpoint",
    "run_name",
}
# How a run was watched, which changes nothing of it; of MonitoringOptions and of the options of the log.
_WATCHING = {
    "alerts",
    "fail_on",
    "generate_interval",
    "generation_max_new_tokens",
    "generation_prompts",
    "gradient_interval",
    "log_eval_only",
    "log_save_interval",
    "logging_steps",
    "peak_flops",
    "reference_model",
    "report_to",
    "save_log_to_json",
    "save_steps",
    "save_strategy",
    "save_total_limit",
    "statistics_interval",
    "text_log",
    "throughput_interval",
    "viz_interval",
    "word_samples",
    "wandb_entity",
    "wandb_log_checkpoints",
    "wandb_project",
    "wandb_run_name",
}
# How noise is drawn and weighed, of which an autoregressive model has none.
_OF_DIFFUSION = {
    "count_law",
    "count_law_centre",
    "count_law_exponent",
    "count_law_uniform_share",
    "count_law_width",
    "loss_form",
    "loss_weight",
    "noise_sampling",
    "noise_schedule",
    "schedule_exponent",
    "sigma_max",
    "sigma_min",
}
UNSAID = "objective, data and size may differ: the log of {names} does not tell them."
SEED_KEYS = ("seed", "data_seed")
_MOST_VALUES = 4  # of a setting in a sentence; the HTML page has a table of all


def settings_of(run: Run) -> dict[str, Any]:
    """Return everything about a run that a fair comparison keeps equal, nested keys joined by dots."""
    settings = {key: value for key, value in run.config.items() if key not in _EXPECTED_TO_DIFFER | _WATCHING}
    settings = dict(_flat(settings, ""))
    settings.update(_flat(run.header.data, "data."))
    settings["model.parameters"] = run.header.model.get("parameters")
    return settings


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return every setting, data property and size that differs: ``{key: [value in each run]}``, None where not set.

    Left out is what is meant to differ: the objective, names and paths; and what only masked diffusion has, but between runs
    of it.
    """
    settings = [settings_of(run) for run in runs]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    columns = {key: [setting.get(key) for setting in settings] for key in keys}
    found = {}
    for key, values in columns.items():
        counted = [
            value for run, value in zip(runs, values, strict=True) if key not in _OF_DIFFUSION or run.objective != "ar"
        ]
        if any(value != counted[0] for value in counted[1:]):
            found[key] = values
    return found


def minimised_notes(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Say of each run that minimised another weighting of the cross-entropies than the bound's what it was."""
    said = [(name, run.header.metadata.get("train_objective")) for run, name in zip(runs, names, strict=True)]
    return [
        f"{name} minimised {shortened(what)}, which is its own part of the training; its evaluations are of P0, as ever."
        for name, what in said
        if isinstance(what, str) and what.startswith("p0+")
    ]


def tells_of_settings_alone(run: Run) -> bool:
    """Whether a log says nothing of what was trained on what, as those of other programs."""
    return run.objective is None and not run.header.data and run.header.model.get("parameters") is None


def fairness_notes(
    names: Sequence[str], found: Mapping[str, Sequence[Any]], silent: Sequence[str], unsaid: Sequence[str] = ()
) -> list[str]:
    """Return what the check found as sentences: a verdict, then one line for each key that differs.

    Args:
        names: of the runs, in the order of the values.
        found: what :func:`differences` returned.
        silent: names of runs whose logs hold no settings, about which nothing can be said.
        unsaid: names of runs whose logs hold settings alone (:func:`tells_of_settings_alone`).
    """
    notes = []
    if silent:
        notes.append(f"Fairness cannot be checked for {', '.join(silent)}: the log holds no settings.")
    if found:
        notes.append("Fairness: besides the objective these differ:")
        notes += [f"- {key}: {_values(names, values)}" for key, values in found.items()]
    if unsaid:
        notes.append(
            f"Fairness: objective, data and size may differ: the log of {', '.join(unsaid)} does not tell them."
        )
    elif not found and not silent:
        notes.append(
            "Fairness: the runs differ in their objective only; every other setting, the data and the size are equal."
        )
    return notes


def _values(names: Sequence[str], values: Sequence[Any]) -> str:
    if len(values) <= 3:
        return " / ".join(shortened(value) for value in values)
    holders: dict[str, list[str]] = {}
    for name, value in zip(names, values, strict=True):
        holders.setdefault(shortened(value), []).append(name)
    shown = [
        f"{value} ({', '.join(having) if len(having) <= 3 else f'{len(having)} runs'})"
        for value, having in list(holders.items())[:_MOST_VALUES]
    ]
    more = len(holders) - _MOST_VALUES
    return " / ".join(shown + ([f"{more} more values"] if more > 0 else []))


def _flat(values: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
