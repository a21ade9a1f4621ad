"""The nll of runs over the size of their diffusion blocks, as points; without matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..comparing.seeds import SeedGroup, mean_and_error
from ..journal.run import Run

KINDS = {"ar": "autoregressive", "bd3lm": "block diffusion", "mdlm": "masked diffusion"}


class SizePoint(NamedTuple):
    """One configuration: tokens of a block, nll of its best evaluation (the mean over seeds) and error, and its first run.

    The error of several seeds is over them, of one run that of its evaluation's noise; None: unknown.
    """

    size: int
    nll: float
    error: float | None
    run: Run

    @property
    def kind(self) -> str:
        """In words, with what the number is."""
        return f"{KINDS[str(self.run.objective)]}, {'exact' if self.run.bound == 'exact' else 'upper bound'}"


def block_size_of(run: Run) -> int | None:
    """Tokens that a run writes together: 1 of an autoregressive one, a whole text's of masked diffusion; None: unknown."""
    if run.objective == "ar":
        return 1
    size = run.config.get("diffusion_block_size" if run.objective == "bd3lm" else "block_size")
    return size if isinstance(size, int) and run.objective in KINDS else None


def size_points(groups: Sequence[SeedGroup]) -> list[SizePoint]:
    """Return the points, smallest block first."""
    points = []
    for group in groups:
        best = [run.best_evaluation for run in group.runs]
        if len(best) == 1:
            nll, error = (None, None) if best[0] is None else (best[0].nll, best[0].nll_stderr)
        else:
            nll, error = mean_and_error(record.nll if record else None for record in best)
        if (size := block_size_of(group.runs[0])) is not None and nll is not None:
            points.append(SizePoint(size, nll, error, group.runs[0]))
    return sorted(points, key=lambda point: point[:2])


def compares_sizes(runs: Sequence[Run]) -> bool:
    """Whether runs with evaluations differ in the size of their blocks, and one has block diffusion."""
    sizes = {block_size_of(run) for run in runs if run.best_evaluation is not None} - {None}
    return len(sizes) > 1 and any(run.objective == "bd3lm" for run in runs)
