"""The stages of a curriculum as the log has them: when each began, and what it is called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..journal.run import Run

STAGE_NAMES = ("easy", "medium", "hard")


@dataclass(frozen=True)
class StageStart:
    """``step`` is the first logged optimiser step of the stage; ``name`` is what it is called."""

    step: int
    name: str


def stage_starts(run: Run) -> list[StageStart]:
    """Return when each stage of the curriculum began, the first one included; nothing where there is no curriculum.

    A stage never ends for an earlier one: where a log says so, it is left out.
    """
    stages = run.column("curriculum_stage")
    known = np.isfinite(stages)
    known[known] = np.isin(stages[known], range(1, len(STAGE_NAMES) + 1))
    steps, highest = run.column("iter")[known], np.maximum.accumulate(stages[known])
    begins = np.flatnonzero(np.diff(highest, prepend=0))
    return [StageStart(int(steps[place]), STAGE_NAMES[int(highest[place]) - 1]) for place in begins]
