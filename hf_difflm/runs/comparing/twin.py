"""The autoregressive twin of a masked diffusion run, or the other way round: a run beside it on the same data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ...errors import UserError
from ..journal.atomic_files import JOURNAL_NAME
from ..journal.run import Run
from ..reading.load import load_run
from .fairness import differences

AR = "ar"


def find_twin(run: Run) -> Run | None:
    """Return the run in a neighbouring folder that differs least, of those with the other kind of objective.

    It must have seen the same data (their fingerprints), and have an evaluation. None where there is none.
    """
    fingerprint = run.header.data.get("fingerprint")
    if fingerprint is None or run.objective is None:
        return None
    found = []
    for journal in _neighbours(run.path):
        header = _header(journal)
        same = header.get("data", {}).get("fingerprint") == fingerprint
        objective = header.get("objective")
        if not same or not isinstance(objective, str) or (objective == AR) == (run.objective == AR):
            continue
        try:
            other = load_run(journal)
        except UserError:  # damaged beyond reading: `runs list` tells of it, and the card can do without
            continue
        if other.best_evaluation is not None:
            found.append(other)
    return min(found, key=lambda other: (len(differences([run, other])), str(other.path)), default=None)


def _neighbours(journal: Path) -> Iterator[Path]:
    folder = journal.resolve().parent
    for path in sorted(folder.parent.glob(f"*/{JOURNAL_NAME}")):
        if path.parent != folder:
            yield path


def _header(journal: Path) -> dict:
    """The first record of a journal, without reading the rest; empty where it is no header."""
    try:
        with journal.open("rb") as file:
            record = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("data"), dict) else {}
