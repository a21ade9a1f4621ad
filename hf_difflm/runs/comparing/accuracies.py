"""Accuracies of several runs in columns: guessing masked tokens is another task than guessing the next one."""

from __future__ import annotations

from collections.abc import Sequence

from ..journal.tables import number

ONE_TASK = "accuracy"
_CAUSAL = ("ar",)


def accuracy_task(objective: str | None) -> str:
    """Return what the accuracy of a run is of, as the heading of its column says it.

    A denoiser's is over masked tokens, averaged over masking rates; a causal model's over the next token. Of a log that
    names no objective nothing is known.
    """
    if objective is None:
        return ONE_TASK
    return "next-token accuracy" if objective in _CAUSAL else "masked-token accuracy"


def accuracy_headings(objectives: Sequence[str | None]) -> list[str]:
    """Return the headings: one a task, in the order in which the rows come; just ``accuracy`` where all have one task."""
    tasks = list(dict.fromkeys(accuracy_task(objective) for objective in objectives))
    return tasks if len(tasks) > 1 else [ONE_TASK]


def accuracy_cells(objective: str | None, value: float | None, headings: Sequence[str]) -> list[str]:
    """Return the cells of a row under :func:`accuracy_headings`; those of other tasks are empty."""
    if len(headings) == 1:
        return [number(value, 4)]
    return [number(value, 4) if heading == accuracy_task(objective) else "" for heading in headings]
