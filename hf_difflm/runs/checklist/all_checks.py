"""The checklist of a run, answered from its log: is the diffusion at work, is importance learnt, is the training sound?"""

from __future__ import annotations

from typing import Any

from ..journal.run import Run
from ..journal.tables import printable
from ..reading.places import shown_run
from .checks import FAILED, MARKS, Check
from .importance import curriculum_checks, importance_checks
from .noise import noise_checks
from .training import training_checks


def check_run(run: Run) -> list[Check]:
    """All checks of a run, finished or not, of any objective; what does not apply to it is ``unknown``."""
    return [*training_checks(run), *noise_checks(run), *importance_checks(run), *curriculum_checks(run)]


def is_sound(checks: list[Check]) -> bool:
    """Whether no check failed."""
    return all(check.outcome != FAILED for check in checks)


def checklist_text(run: Run, checks: list[Check]) -> str:
    """One line a check, and how many of each there are."""
    what = f"{printable(run.name)} ({run.objective or 'objective unknown'}) in {printable(shown_run(run))}"
    counts = {mark: sum(check.outcome == outcome for check in checks) for outcome, mark in MARKS.items()}
    total = ", ".join(f"{count} {mark}" for mark, count in counts.items())
    return "\n".join([f"{what}: {total}", *(check.to_text() for check in checks)])


def checklist_data(run: Run, checks: list[Check]) -> dict[str, Any]:
    """The same as plain data: ``run``, ``objective``, ``status``, ``sound`` and ``checks``."""
    return {
        "run": run.name,
        "objective": run.objective,
        "status": run.shown_status,
        "sound": is_sound(checks),
        "checks": [vars(check) for check in checks],
    }
