"""The folder of a run: finding a free one, and refusing to mix two runs in one."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runs import load_run
from ..runs.files import JOURNAL_NAME
from .settings import Settings

# What a run writes; all that --overwrite deletes.
_WRITTEN = ("checkpoint-*", "best", "best.*", JOURNAL_NAME, "*.json", "samples.txt")

# Settings that change how a run is watched, cut up or placed, but not which run it is.
NOT_IDENTITY = frozenset(
    {
        "bf16",
        "dataloader_num_workers",
        "disable_tqdm",
        "eval_steps",
        "eval_strategy",
        "experiment_name",
        "gradient_accumulation_steps",
        "log_dir",
        "log_save_interval",
        "logging_steps",
        "num_preprocessing_workers",
        "per_device_eval_batch_size",
        "per_device_train_batch_size",
        "report_to",
        "save_log_to_json",
        "save_steps",
        "save_strategy",
        "save_total_limit",
        "use_cpu",
    }
)


def flat_config(settings: Settings) -> dict[str, Any]:
    """All settings of a run in one flat mapping, as the run log records them."""
    return {**dataclasses.asdict(settings.data), **dataclasses.asdict(settings.model), **settings.training}


def default_name(settings: Settings) -> str:
    """``{recipe or data set}-{objective}``, fit for a file name."""
    source = settings.recipe or settings.data.dataset
    stem = Path(source).stem if Path(source).suffix in (".yaml", ".yml", ".txt", ".jsonl", ".parquet") else source
    return re.sub(r"[^\w.-]+", "-", f"{stem}-{settings.training['objective']}").strip("-")


def fresh_folder(settings: Settings) -> Path:
    """A folder under ``runs/`` that does not exist yet."""
    name = settings.training["experiment_name"] or default_name(settings)
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, n = stem, 1
    while folder.exists():
        n += 1
        folder = stem.with_name(f"{stem.name}-{n}")
    return folder


def holds_run(folder: Path) -> bool:
    """Whether a run has written here."""
    return (folder / JOURNAL_NAME).exists() or any(folder.glob("checkpoint-*"))


def claim(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the folder ready for a run.

    Raises:
        UserError: it holds a run and neither resuming nor overwriting was asked for, it is a file, it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output-dir {folder} is a file; give a folder")
    if holds_run(folder):
        if overwrite:
            for pattern in _WRITTEN:
                for path in folder.glob(pattern):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif not resume:
            raise UserError(
                f"{folder} already holds a run; go on with it by --resume, replace it by --overwrite, or give another "
                "--output-dir"
            )
    elif resume:
        raise UserError(f"{folder} holds no run to resume; leave out --resume, or check --output-dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); give another --output-dir") from error


def changed_settings(folder: Path, config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that make ``config`` another experiment than the run in ``folder``: name to (recorded, wanted)."""
    recorded = load_run(folder).config
    return {
        name: (recorded.get(name), wanted)
        for name, wanted in config.items()
        if name not in NOT_IDENTITY and name in recorded and _plain(recorded[name]) != _plain(wanted)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
