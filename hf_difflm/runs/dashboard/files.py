"""The files of a dashboard: pictures by step, the newest picture, and the numbers and texts they were drawn from."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from ..journal.atomic_files import JOURNAL_NAME, remove_leftovers, replacing, write_text
from ..journal.run import Run
from ..journal.strict_json import dumps, plain
from ..reading.dashboard_names import FOLDER, HISTORY, LATEST, SAMPLES, SHOWN_SAMPLES
from .figure import draw_dashboard

KEPT_PICTURES = 200
_PICTURE = re.compile(r"training_step_(\d{6,})\.png")
_MEMORY = "throughput/peak_memory_mb"
# The files are written whole, so their cost grows; a wait of this many times the last writing keeps it below 1 %.
_REST = 100
_BATCH = 10_000


def default_folder(path: Path) -> Path:
    """Return where the dashboard of a log lies: ``dashboard`` beside a journal, ``{log}_dashboard`` beside other logs."""
    return path.parent / (FOLDER if path.name == JOURNAL_NAME else f"{path.stem}_{FOLDER}")


def write_dashboard(run: Run, folder: Path) -> Path:
    """Write all files of the dashboard and return the path of the newest picture.

    Raises:
        UserError: a picture cannot be written.
        OSError: another file cannot be written.
    """
    latest = write_picture(run, folder, run.last_step)
    HistoryWriter(folder).write(run)
    return latest


def write_picture(run: Run, folder: Path, step: int, samples: int = SHOWN_SAMPLES, is_latest: bool = True) -> Path:
    """Draw ``training_step_{step}.png`` and make ``training_latest.png`` the same bytes, each replaced in one step.

    Args:
        run: as it was then.
        folder: of the dashboard.
        step: names the file.
        samples: how many are shown.
        is_latest: else the newest picture stays as it is.

    Raises:
        UserError: the picture cannot be written.
        OSError: the newest picture cannot be replaced.
    """
    picture = draw_dashboard(run, folder / f"training_step_{step:06d}.png", samples)
    latest = folder / LATEST
    if not is_latest:
        return latest
    with replacing(latest) as temporary:
        temporary.unlink()
        try:
            os.link(picture, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(picture, temporary)
    return latest


def thin_pictures(folder: Path, kept: int = KEPT_PICTURES) -> None:
    """Delete pictures until so many are left, over the whole run and about evenly spaced; first and last stay.

    A run of 100,000 steps with one each 50 would leave a gigabyte of pictures that nobody looks through.
    """
    found = pictures(folder)
    steps = sorted(found)
    while len(steps) > max(kept, 2):
        gaps = [steps[place + 1] - steps[place - 1] for place in range(1, len(steps) - 1)]
        found[steps.pop(1 + gaps.index(min(gaps)))].unlink(missing_ok=True)


def pictures(folder: Path) -> dict[int, Path]:
    """Return the pictures in a folder by their steps."""
    if not folder.is_dir():
        return {}
    return {int(match[1]): path for path in folder.iterdir() if (match := _PICTURE.fullmatch(path.name))}


def clean(folder: Path, step: int) -> None:
    """Delete the pictures of later steps, which an earlier run or attempt has left, and what a killed drawing has left."""
    for beyond, path in pictures(folder).items():
        if beyond > step:
            path.unlink(missing_ok=True)
    for leftover in folder.glob(".training_step_*-????????.png"):
        leftover.unlink(missing_ok=True)
    for name in (LATEST, HISTORY, SAMPLES):
        remove_leftovers(folder / name)


class HistoryWriter:
    """Keeps ``metrics_history.json`` and ``text_samples.json`` fresh at a cost below one per cent of the time.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._not_before = 0.0

    def write_if_due(self, run: Run) -> None:
        """Write both, unless the last writing was less than 100 times as long ago as it took.

        Raises:
            OSError: a file cannot be written.
        """
        if time.monotonic() >= self._not_before:
            self.write(run)

    def write(self, run: Run) -> None:
        """Write both files now, each replaced in one step.

        Raises:
            OSError: a file cannot be written.
        """
        start = time.monotonic()
        write_rows(self._folder / HISTORY, metrics_history(run))
        write_text(self._folder / SAMPLES, dumps(text_samples(run), indent=1) + "\n")
        end = time.monotonic()
        self._not_before = end + _REST * (end - start)


def metrics_history(run: Run) -> list[dict[str, Any]]:
    """Return one object a step row: step, loss, accuracy, tokens_per_sec, gpu_memory_mb, learning_rate, timestamp.

    Loss in nats, accuracy as a share of 1, peak memory of the device in MB (MiB) as measured at that step, timestamp in
    seconds since 1970; null where unknown.
    """
    rates = {int(step): rate for step, _, rate in run.known("tokens_per_sec").tolist()}
    memory = {
        record.iter: record.metrics[_MEMORY] for record in run.measurements if record.metrics.get(_MEMORY) is not None
    }
    return [
        {
            "step": row.iter,
            "loss": row.loss,
            "accuracy": row.accuracy,
            "tokens_per_sec": rates.get(row.iter),
            "gpu_memory_mb": memory.get(row.iter),
            "learning_rate": row.lr,
            "timestamp": _seconds(row.time),
        }
        for row in run.steps
    ]


def text_samples(run: Run) -> list[dict[str, Any]]:
    """Return one object a sample: its step, ``input`` (the prompt), ``output`` and what else is known of it."""
    return [
        plain(
            {
                **record.extra,
                "step": record.iter,
                "input": record.prompt,
                "output": record.text,
                "timestamp": _seconds(record.time),
            }
        )
        for record in run.samples
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a JSON list, one row a line, in one step.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(rows), _BATCH):
            text = ",\n ".join(map(dumps, map(plain, rows[start : start + _BATCH])))
            file.write((",\n " if start else "\n ") + text)
        file.write("\n]\n")


def _seconds(moment: str) -> float | None:
    with contextlib.suppress(ValueError):  # a foreign log writes its times in its own way
        return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
    return None
