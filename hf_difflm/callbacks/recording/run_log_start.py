"""How a run log begins: its place is claimed, what is in it is gone on with or set aside, and the header is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from ...errors import UserError
from ...runs.derived.rebuild import derived_files
from ...runs.journal.append_only import Journal
from ...runs.journal.atomic_files import remove_leftovers
from ...runs.journal.reading import find_run
from ...runs.journal.run import Run
from ...runs.journal.schema import EventRecord
from .run_header import run_record
from .second_run import free_names, of_checkpoint, set_aside


@dataclass(frozen=True)
class Place:
    """Where a run log goes, and how it is to be begun.

    Attributes:
        journal: closed.
        name: of the run, if it is a new one; a number is added where a run of the folder has it.
        resumed: whether to go on with the run that is there.
        overwrite: whether to replace the run that is there.
    """

    journal: Journal
    name: str
    resumed: bool
    overwrite: bool


@dataclass(frozen=True)
class Attempt:
    """A run log that has begun: the files that are derived from it, and the run that it goes on with, if any."""

    derived: list[Path]
    previous: Run | None

    def flops_until(self, step: int) -> float:
        """Model FLOPs up to a step, as the log has them."""
        if self.previous is None:
            return 0.0
        total = self.previous.steps.up_to(step).column("total_flops")
        return float(np.nan_to_num(total).max(initial=0.0))


def begin_attempt(place: Place, args: TrainingArguments, model: Any, header: Mapping[str, Any], step: int) -> Attempt:
    """Open the journal of a place and write the header of an attempt that begins at a step.

    A run that is there and is neither resumed nor overwritten is set aside; see :mod:`.second_run`.

    Raises:
        UserError: a file that is no run's is in the way, another process writes the log, or it cannot be written.
    """
    journal = place.journal
    try:
        previous, aside = _claim(place, header.get("experiment_name"), step)
        # Under one run id all attempts have one name.
        name, experiment = previous.name if previous else place.name, header.get("experiment_name")
        if previous is not None:
            experiment = previous.headers[0].experiment_name
        else:
            name, experiment = free_names(journal.path.parent, name, experiment, aside)
        header = {**header, "experiment_name": experiment}
        record = run_record(args, model, header, name, previous.header.run_id if previous else None)
        begun = EventRecord(event="resumed" if place.resumed else "started", iter=step)
        begun.resumed_from_step = step if place.resumed else None
        journal.append_all([record, begun])
    except OSError as error:
        journal.close()
        advice = "choose another log_dir"
        if isinstance(error, BlockingIOError):
            advice = (
                "wait until it has ended (a training of this process that failed holds it until its Trainer is "
                f"deleted), or {advice}"
            )
        raise UserError(f"the run log {str(journal.path)!r} cannot be written ({error.strerror}); {advice}") from error
    derived = derived_files(journal.path.parent, name, record.experiment_name)
    for path in derived:
        remove_leftovers(path)
    return Attempt(derived, previous)


def _claim(place: Place, experiment_name: str | None, step: int) -> tuple[Run | None, str | None]:
    """Open the journal; return the run in it that is resumed, or None for a new run, for which its place is cleared.

    And the name of the run that was there and has been set aside, if any.
    """
    journal = place.journal
    folder = journal.path.parent
    previous = find_run(journal.path) if journal.path.exists() else None
    if not place.resumed and not place.overwrite and previous is None:
        if journal.path.exists():
            raise UserError(
                f"{str(journal.path)!r} holds no run, though it is called a journal; replace it with overwrite=True, write "
                "into it with resume=True, or choose another log_dir"
            )
        for path in derived_files(folder, place.name, experiment_name):
            if path.exists():
                raise UserError(f"{str(path)!r} exists; choose another run_name or log_dir")
    journal.open()  # and lock it: nothing of a run that is alive is deleted or renamed
    if place.resumed:
        return (of_checkpoint(journal, previous, step) if previous and step else previous), None
    if previous is not None and not place.overwrite:
        set_aside(journal, previous)
        return None, previous.name
    journal.clear()
    if previous is not None:
        for path in derived_files(folder, previous.name, previous.headers[0].experiment_name):
            path.unlink(missing_ok=True)
    return None, None
