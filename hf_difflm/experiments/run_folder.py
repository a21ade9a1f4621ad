"""The folder of a run: finding a free one, and refusing to mix two runs in one."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from ..callbacks.recording.log_lines import TEXT_LOG_NAME
from ..data.options import SUFFIXES, kind_of, names_of
from ..errors import UserError
from ..recipes import SUFFIXES as RECIPES
from ..runs import load_run
from ..runs.derived.rebuild import derived_files
from ..runs.journal.append_only import has_other_writer
from ..runs.journal.atomic_files import JOURNAL_NAME
from ..runs.reading import dashboard_names
from ..runs.reading.dashboard_names import FOLDER as DASHBOARD
from ..training.declarations.identity import another_experiment, only_watching, refusal
from .recipe_settings import Settings

logger = logging.getLogger(__name__)

# What a run writes besides its log; all that --overwrite deletes.
_WRITTEN = ("checkpoint-*", "best", "best.*", "*_evaluation.json", "samples.txt", "push.tmp")


def flat_config(settings: Settings, global_batch_size: int) -> dict[str, Any]:
    """All settings of a run in one flat mapping, as the run log records them.

    Args:
        settings: the settings.
        global_batch_size: sequences in an optimiser batch, as it follows from them and the number of processes.
    """
    groups = (settings.data, settings.model, settings.monitoring)
    config = {name: value for group in groups for name, value in dataclasses.asdict(group).items()} | settings.training
    return config | {"global_batch_size": global_batch_size}


def default_name(settings: Settings) -> str:
    """``{recipe or data set}-{objective}``, fit for a file name; a name that ends in the objective stays as it is."""
    source, objective = settings.named_after, settings.training["objective"]
    stem = "+".join(_stem(name) for name in names_of(source))
    return _file_name(stem if stem.endswith(f"-{objective}") else f"{stem}-{objective}")


def fresh_folder(settings: Settings) -> Path:
    """A folder under ``runs/`` that does not exist yet."""
    name = settings.training["experiment_name"]
    name = default_name(settings) if name is None else _file_name(name)
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, n = stem, 1
    while folder.exists():
        n += 1
        folder = stem.with_name(f"{stem.name}-{n}")
    return folder


def holds_run(folder: Path) -> bool:
    """Whether a run has written here."""
    return keeps_log(folder) or any(folder.glob("checkpoint-*"))


def has_begun(folder: Path) -> bool:
    """Whether the run that has written here has come as far as a whole first record of its log, or a checkpoint."""
    if any(folder.glob("checkpoint-*")):
        return True
    try:
        with (folder / JOURNAL_NAME).open("rb") as journal:
            return journal.readline().endswith(b"\n")
    except OSError:
        return False


def keeps_log(folder: Path) -> bool:
    """Whether the run in the folder has a log."""
    return (folder / JOURNAL_NAME).exists()


def check_folder(folder: Path, log_dir: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Find what stands in the way of a run; changes nothing.

    Args:
        folder: the output folder.
        log_dir: folder of the run log.
        config: see :func:`flat_config`.
        resume: the run that the folder holds shall go on.
        overwrite: the run that the folder holds shall be replaced.

    Raises:
        UserError: the folder holds a run and neither resuming nor overwriting was asked for; there is no run to resume,
            or one with other settings or another log; the run is still being trained by another process; a folder is a
            file or cannot be written.
    """
    for place, flag in ((folder, "--output-dir"), (log_dir, "--log-dir")):
        _check_writable(place, flag)
    refuse_living(folder)
    if resume and not holds_run(folder):
        raise UserError(f"{folder} holds no run to resume; leave out --resume, or check --output-dir")
    if holds_run(folder) and not (resume or overwrite):
        raise UserError(
            f"{folder} already holds a run; go on with it by --resume, replace it by --overwrite, or give another "
            "--output-dir"
        )
    recorded = log_folder(folder)
    if log_dir.resolve() != recorded.resolve():
        if resume and holds_run(folder):
            raise UserError(
                f"the log of the run in {folder} is in {recorded}, not in {log_dir}; leave out --log-dir to resume it"
            )
        if (log_dir / JOURNAL_NAME).exists() and log_folder(log_dir).resolve() != recorded.resolve():
            raise UserError(f"{log_dir} already holds the log of another run; give another --log-dir")
    if resume and (changed := changed_settings(folder, config)):
        raise UserError(refusal(f"cannot resume {folder}", changed, config))


def refuse_living(folder: Path) -> None:
    """Raise UserError where another process is still training the run in the folder, as far as its log tells."""
    if _is_living(folder):
        raise UserError(
            f"the run in {folder} is still being trained by another process; wait until it has ended, stop it, or give "
            "another --output-dir"
        )


def make_folder(folder: Path, log_dir: Path, *, overwrite: bool) -> None:
    """Make the folder ready for a run that :func:`check_folder` has let through; one process does it.

    A log that is kept elsewhere is linked to, so that the folder alone is enough to resume or evaluate the run.

    Raises:
        UserError: the folder cannot be written, or another process has begun a run there in the meantime.
    """
    refuse_living(folder)
    if overwrite:
        delete_run(folder)
    link = folder / JOURNAL_NAME
    if link.exists():
        raise UserError(f"{folder} holds a run that another process has just begun; give another --output-dir")
    make_place(folder)
    try:
        link.unlink(missing_ok=True)  # all that can be there by now is a link to a log that is gone
        if log_dir.resolve() != folder.resolve():
            link.symlink_to(os.path.relpath((log_dir / JOURNAL_NAME).resolve(), folder.resolve()))
    except OSError as error:
        raise UserError(f"--output-dir {folder} cannot be written ({error.strerror}); give another folder") from error


def make_place(folder: Path) -> None:
    """Make an empty folder, where there is none.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output-dir {folder} cannot be written ({error.strerror}); give another folder") from error


def delete_run(folder: Path) -> None:
    """Delete all that a run has written, its log too, and the folder where nothing else is in it.

    A run that another process is training stays as it is.
    """
    if _is_living(folder):
        return
    journal = folder / JOURNAL_NAME
    if journal.exists():
        logs = log_folder(folder)
        try:
            run = load_run(journal)
            for path in derived_files(logs, run.name, run.headers[0].experiment_name):
                path.unlink(missing_ok=True)
        except UserError as error:  # damaged beyond reading, so that nothing says which files are its own
            logger.warning("%s", error)
        shutil.rmtree(logs / DASHBOARD, ignore_errors=True)
        (logs / TEXT_LOG_NAME).unlink(missing_ok=True)
        (logs / JOURNAL_NAME).unlink()
        shutil.rmtree(logs / dashboard_names.FOLDER, ignore_errors=True)
    journal.unlink(missing_ok=True)  # where it was a link
    for pattern in _WRITTEN:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def log_folder(folder: Path) -> Path:
    """The folder of the log of the run in ``folder``: itself, or where ``--log-dir`` put it."""
    journal = folder / JOURNAL_NAME
    return journal.resolve().parent if journal.is_symlink() else folder


def changed_settings(folder: Path, config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that make ``config`` another experiment than the run in ``folder``: name to (recorded, wanted).

    Empty where the run keeps no log, since nothing says what its settings were.
    """
    return another_experiment(load_run(folder).config, config) if keeps_log(folder) else {}


def harmless_changes(folder: Path, config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Further settings in which ``config`` differs, and a run may when it is resumed: name to (recorded, wanted)."""
    return only_watching(load_run(folder).config, config) if keeps_log(folder) else {}


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings of the run in ``folder``, for one who resumes it and gives none.

    Raises:
        UserError: there is no run, it keeps no log, or it was not started from the command line.
    """
    if not holds_run(folder):
        raise UserError(f"{folder} holds no run to resume; check --output-dir")
    if not keeps_log(folder):
        raise UserError(
            f"the run in {folder} keeps no log of its settings; give its recipe and flags again to resume it"
        )
    config = dict(load_run(folder).config)
    if "dataset" not in config:
        raise UserError(
            f"the run in {folder} was not started by hf-difflm, so resume it where it was started, in Python"
        )
    # Accumulation follows from the batch size and the number of processes, which may be another one by now.
    config.pop("gradient_accumulation_steps", None)
    return config


def _is_living(folder: Path) -> bool:
    try:
        return has_other_writer(folder / JOURNAL_NAME)
    except OSError:  # what cannot be read here is told where it is read
        return False


def _check_writable(folder: Path, flag: str) -> None:
    """Raise UserError where ``folder`` cannot be made or written; leaves no trace."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} {folder} is a file; give a folder")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    nearest = missing[-1].parent if missing else folder
    reason = "" if nearest.is_dir() else f"{nearest} is a file"
    if not reason and not os.access(nearest, os.W_OK | os.X_OK):
        reason = f"no permission to write in {nearest}"
    if reason:
        raise UserError(f"{flag} {folder} cannot be written ({reason}); give another folder")


def _stem(source: str) -> str:
    kind = kind_of(path := Path(source))
    return path.name.partition(kind)[0] if kind in (*SUFFIXES, *RECIPES) else source.rstrip("/")


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", name).strip("-.") or "run"
