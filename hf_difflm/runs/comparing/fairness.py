"""Is a comparison fair? Every setting, data property and size that differs between runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    "diffusion_block_size",
    "loss_form",
    "loss_weight",
    "noise_sampling",
    "noise_schedule",
    "schedule_exponent",
    "sigma_max",
    "sigma_min",
}
NOT_TOLD = "not told"
"""In the place of a value that the log of a run does not tell, since what wrote it does not know the setting."""
_DATA = "data."
_PARAMETERS = "model.parameters"
# Of one side, or what was counted and said about the text: none of them tells which text was trained on.
_NOT_THE_TEXT = {"counts", "eval_fingerprint", "notes", "round_trip", "source_nll"}
SEED_KEYS = ("seed", "data_seed")
_MOST_VALUES = 4  # of a setting in a sentence; the HTML page has a table of all


def settings_of(run: Run) -> dict[str, Any]:
    """Return everything about a run that a fair comparison keeps equal, nested keys joined by dots."""
    settings = {key: value for key, value in run.config.items() if key not in _EXPECTED_TO_DIFFER | _WATCHING}
    settings = dict(_flat(settings, ""))
    settings.update(_flat(run.header.data, "data."))
    if (parameters := run.header.model.get("parameters")) is not None:
        settings[_PARAMETERS] = parameters
    return settings


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return every setting, data property and size that differs: ``{key: [value in each run]}``, None where not set.

    Left out is what is meant to differ: the objective, names and paths; and what only masked diffusion has, but between runs
    of it. Only runs that know a setting are compared by it; :data:`NOT_TOLD` stands for the others.
    """
    return _compared(runs)[0]


def uncompared(runs: Sequence[Run]) -> int:
    """Return how many settings some logs tell and others do not know, beside those that :func:`differences` has."""
    return _compared(runs)[1]


def _compared(runs: Sequence[Run]) -> tuple[dict[str, list[Any]], int]:
    settings = [settings_of(run) for run in runs]
    writers = [_writers(run) for run in runs]
    found, partly = {}, 0
    for key in dict.fromkeys(key for setting in settings for key in setting):
        kind = _kind(key)
        # What one run of a program says, its others have left unset.
        knowing = {writer[kind] for writer, setting in zip(writers, settings, strict=True) if key in setting} - {None}
        told = [key in setting or writer[kind] in knowing for writer, setting in zip(writers, settings, strict=True)]
        values = [setting.get(key) if known else NOT_TOLD for known, setting in zip(told, settings, strict=True)]
        counted = [
            value
            for run, value, known in zip(runs, values, told, strict=True)
            if known and (key not in _OF_DIFFUSION or run.objective != "ar")
        ]
        if any(value != counted[0] for value in counted[1:]):
            found[key] = values
        elif any(not known and run.config for known, run in zip(told, runs, strict=True)) and key != _PARAMETERS:
            partly += 1
    return found, partly


def _kind(key: str) -> str:
    return _DATA if key.startswith(_DATA) else _PARAMETERS if key == _PARAMETERS else ""


def _writers(run: Run) -> dict[str, str | None]:
    """What wrote the settings and what wrote the data properties of a log; None: a program of which no two logs are alike.

    Our commands know of settings that a Trainer in Python has not, and of the documents behind its rows.
    """
    ours = "command" if "recipe" in run.config else "python"
    data = "documents" if "fingerprint" in run.header.data else None
    is_ours = bool(run.config) and (run.objective is not None or bool(run.header.data))
    return {"": ours if is_ours else None, _DATA: data, _PARAMETERS: None}


def minimised_notes(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Say of each run that minimised another weighting of the cross-entropies than the bound's what it was."""
    said = [(name, run.header.metadata.get("train_objective")) for run, name in zip(runs, names, strict=True)]
    return [
        f"{name} minimised {shortened(what)}, which is its own part of the training; its evaluations are of P0, as ever."
        for name, what in said
        if isinstance(what, str) and what.startswith("p0+")
    ]


def untold(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Say of objective, data and size which logs with settings do not tell them, in sentences without a capital."""
    missing: dict[tuple[str, ...], list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        if run.config and (what := _missing(run)):
            missing.setdefault(what, []).append(name)
    said = []
    for what, silent in missing.items():
        listed = f"{', '.join(what[:-1])} and {what[-1]}" if len(what) > 1 else what[0]
        pronoun = "them" if len(what) > 1 or what == ("data",) else "it"
        said.append(f"{listed} may differ: the log of {', '.join(silent)} does not tell {pronoun}.")
    if not any("data" in what for what in missing) and not _same_kind_of_data(runs):
        said.append("data may differ: the logs tell it in ways that cannot be compared.")
    return said


def equal(runs: Sequence[Run]) -> str:
    """Return the sentence on runs between which no difference was found: what of them is known to be equal."""
    missing = {what for run in runs for what in _missing(run)}
    if not _same_kind_of_data(runs):
        missing.add("data")
    objectives = len({run.objective for run in runs}) > 1 and "objective" not in missing
    partly = uncompared(runs)
    alike = [f"every {'other ' if objectives else ''}setting{' that all logs tell' if partly else ''}"]
    alike += [f"the {what}" for what in ("data", "size") if what not in missing]
    sentence = f"{', '.join(alike[:-1])} and {alike[-1]} are equal" if len(alike) > 1 else f"{alike[0]} is equal"
    if not objectives:
        return f"{sentence}."
    only = "" if missing or partly else " only"
    return f"the runs differ in their objective{only}; {sentence}."


def verdict(
    runs: Sequence[Run], names: Sequence[str], found: Mapping[str, Sequence[Any]], silent: Sequence[str]
) -> list[str]:
    """Return what there is to say besides the settings that differ, in sentences without a capital.

    Args:
        runs: those that are compared.
        names: what they are called.
        found: what :func:`differences` returned.
        silent: names of runs whose logs hold no settings, about which nothing can be said.
    """
    said = untold(runs, names)
    unsaid = all(set(_missing(run)) == set(_FACTS) for run in runs)  # settings alone, and equal ones
    if not found and not silent and not unsaid:
        said.insert(0, equal(runs))
    if partly := uncompared(runs):
        settings = "1 setting is" if partly == 1 else f"{partly} settings are"
        said.append(f"{settings} told by some of the logs alone and could not be compared.")
    return said


def differ_heading(objectives: Iterable[str | None]) -> str:
    """Return what stands before the settings that differ between runs of these objectives, without a capital."""
    known = set(objectives)
    return "besides the objective these differ:" if len(known) > 1 and None not in known else "these differ:"


def fairness_notes(
    runs: Sequence[Run], names: Sequence[str], found: Mapping[str, Sequence[Any]], silent: Sequence[str]
) -> list[str]:
    """Return what the check found as sentences: one line for each key that differs, and the :func:`verdict`."""
    notes = []
    if silent:
        notes.append(f"Fairness cannot be checked for {', '.join(silent)}: the log holds no settings.")
    if found:
        notes.append(f"Fairness: {differ_heading(run.objective for run in runs)}")
        notes += [f"- {key}: {_values(names, values)}" for key, values in found.items()]
    return notes + [f"Fairness: {sentence}" for sentence in verdict(runs, names, found, silent)]


_FACTS = ("objective", "data", "size")


def _missing(run: Run) -> tuple[str, ...]:
    """Which of :data:`_FACTS` a log does not tell."""
    told = (run.objective is not None, bool(run.header.data), run.header.model.get("parameters") is not None)
    return tuple(what for what, known in zip(_FACTS, told, strict=True) if not known)


def _same_kind_of_data(runs: Sequence[Run]) -> bool:
    return bool(set.intersection(*(set(run.header.data) for run in runs)) - _NOT_THE_TEXT)


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
