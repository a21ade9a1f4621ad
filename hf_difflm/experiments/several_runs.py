"""Several runs in one folder: what is finished is reused, what was stopped goes on, the rest is trained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from ..runs import load_run
from ..runs.journal.schema import COMPLETED
from .recipe_settings import Settings
from .run_folder import changed_settings, flat_config, holds_run, keeps_log, refuse_living


def finish_runs(folder: Path, runs: Mapping[str, Settings], *, overwrite: bool, command: str) -> bool:
    """Bring every run to its end; whatever cannot work is found before anything is trained.

    Args:
        folder: the runs lie in it, each under its name.
        runs: settings by name.
        overwrite: train again what is finished.
        command: name of the command, for sentences about what it needs.

    Returns:
        False where Ctrl-C stopped one of them.

    Raises:
        UserError: bad input, or a run there that was made with other settings.
    """
    plans = {name: plan(folder / name, part, overwrite=overwrite, command=command) for name, part in runs.items()}
    _check_networks([part for name, part in runs.items() if plans[name] != "reuse"])
    is_main = int(os.environ.get("RANK", "0")) == 0
    for name, part in runs.items():
        place = folder / name
        if plans[name] == "reuse":
            if is_main:
                print(f"{name}: reusing the finished run in {place} (--overwrite trains again)")
            continue
        from ..callbacks.tracking.wandb_resume import finish_wandb_run
        from .one_run import train_run

        if plans[name] == "resume" and is_main:
            print(f"{name}: going on with the unfinished run in {place}")
        finished = train_run(part, place, resume=plans[name] == "resume", overwrite=overwrite)
        finish_wandb_run()  # the Trainer leaves it open, and the next one would go on in it
        if finished.interrupted:
            return False
    return True


def plan(place: Path, settings: Settings, *, overwrite: bool, command: str) -> str:
    """Say what is left to do: "train", "resume" or "reuse".

    Raises:
        UserError: the settings keep no log in the run's folder, or the folder holds another run.
    """
    if not settings.training["save_log_to_json"]:
        raise UserError(f"{command} reads the run logs, so save_log_to_json cannot be off")
    if settings.training["log_dir"]:
        raise UserError(f"{command} keeps each run log with its run, so --log-dir has no use here; use --output-dir")
    refuse_living(place)
    if overwrite or not holds_run(place):
        return "train"
    if not keeps_log(place):
        raise UserError(f"the run in {place} keeps no log to compare; give another --output-dir, or --overwrite")
    if changed := differing_settings(place, settings):
        name, (recorded, wanted) = next(iter(changed.items()))
        raise UserError(
            f"{place} holds a run with {name} = {recorded!r}, not {wanted!r}; give another --output-dir, or --overwrite to "
            "train again"
        )
    return "reuse" if load_run(place).status == COMPLETED else "resume"


def differing_settings(place: Path, settings: Settings) -> dict[str, tuple[object, object]]:
    """Settings in which the run in ``place`` differs from the wanted one: name to (recorded, wanted)."""
    from .starting_point import begin_from
    from .trainer_arguments import training_arguments

    settings = begin_from(settings)
    arguments = training_arguments(settings, place)
    return changed_settings(place, flat_config(settings, arguments.global_batch_size or 1))


def _check_networks(settings: list[Settings]) -> None:
    """Build every network that is going to be trained: a twin that cannot be built must not wait for the other one."""
    if not settings:
        return
    from .building import build_model
    from .starting_point import begin_from, open_tokenizer

    for part in map(begin_from, settings):
        build_model(part, open_tokenizer(part))
