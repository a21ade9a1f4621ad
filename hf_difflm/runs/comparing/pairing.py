"""Two models on the same documents: the difference of their nll, with the error of a paired comparison.

Documents differ far more among each other than two models do on one document, so the standard error of the paired
difference is much smaller than the data errors of the two numbers suggest.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..journal.atomic_files import write_text
from ..journal.quantities import NATS
from ..journal.run import Run, common_loss_unit
from ..journal.strict_json import dumps
from .seeds import SeedGroup, mean_and_error
from .verdicts import Verdict, half_interval, verdict

logger = logging.getLogger(__name__)

EVALUATION_FILE = "best_evaluation.json"
"""Beside the journal: nll by document of the evaluation that is kept in ``best/``."""


@dataclass(frozen=True)
class PairedDifference:
    """nll(first) - nll(second) in nats per scored token, over the units both were scored on.

    Args:
        first, second: names of the runs.
        nats: the difference.
        stderr: its standard error over units.
        units: how many.
        unit: "documents", "blocks" or "seeds".
        bounds: bound of each number, "nelbo" or "exact".
        measure: unit of the difference; "loss" of Trainers that do not say what they minimise.
    """

    first: str
    second: str
    nats: float
    stderr: float
    units: int
    unit: str
    bounds: tuple[str | None, str | None]
    measure: str = NATS

    @property
    def verdict(self) -> Verdict:
        """What it says of the two models."""
        half = half_interval(self.stderr, self.units)
        return verdict((self.first, self.second), self.bounds, self.nats, half)

    def __str__(self) -> str:
        return (
            f"{self.first} - {self.second}: {self.nats:+.4f} ± {self.stderr:.4f} {self.measure} "
            f"(best evaluations, paired over {self.units} {self.unit}): {self.verdict.sentence}."
        )


def paired_difference(first: Run, second: Run, *, names: Sequence[str] | None = None) -> PairedDifference | None:
    """Compare the best evaluations of two runs; None where they do not share at least two documents (or blocks).

    Args:
        first, second: the runs.
        names: what to call the two; by default their objectives, else their own names.
    """
    if _file(first) == _file(second):  # two documents in one folder: the file belongs to one of them at most
        return None
    a, b = _read(first), _read(second)
    if a is None or b is None or a["unit"] != b["unit"]:
        return None
    _, in_a, in_b = np.intersect1d(a["ids"], b["ids"], return_indices=True)
    tokens_a, tokens_b = a["tokens"][in_a], b["tokens"][in_b]
    if len(in_a) < 2 or not np.array_equal(tokens_a, tokens_b):
        return None
    difference = a["nll"][in_a] - b["nll"][in_b]
    total, units = tokens_a.sum(), len(in_a)
    mean = difference.sum() / total
    residual = difference - mean * tokens_a
    return PairedDifference(
        first=names[0] if names else first.objective or first.name,
        second=names[1] if names else second.objective or second.name,
        nats=float(mean),
        stderr=float(math.sqrt(units / (units - 1) * (residual**2).sum()) / total),
        units=units,
        unit=a["unit"],
        bounds=(first.bound, second.bound),
    )


def paired_over_seeds(first: SeedGroup, second: SeedGroup) -> PairedDifference | None:
    """Compare two configurations seed by seed, by the best evaluation of each run; None below two seeds in common."""
    in_first, in_second = _nll_by_seed(first), _nll_by_seed(second)
    shared = [seed for seed in in_first if seed in in_second]
    mean, error = mean_and_error(in_first[seed] - in_second[seed] for seed in shared)
    if mean is None or error is None:
        return None
    bounds = (first.runs[0].bound, second.runs[0].bound)
    measure = common_loss_unit([*first.runs, *second.runs]) or "loss"
    return PairedDifference(first.label, second.label, mean, error, len(shared), "seeds", bounds, measure)


def write_best_evaluation(
    folder: Path, step: int, unit: str, ids: Sequence[int], tokens: Sequence[int], nll: Sequence[float]
) -> None:
    """Record an evaluation unit by unit.

    Args:
        folder: the run's log folder.
        step: optimiser steps done.
        unit: "documents" or "blocks".
        ids, tokens, nll: of each unit: its id, its scored tokens, its nll in nats.
    """
    record = {"iter": step, "unit": unit, "ids": list(ids), "tokens": list(tokens), "nll": list(nll)}
    write_text(folder / EVALUATION_FILE, dumps(record))


def _file(run: Run) -> Path:
    return Path(run.path).parent / EVALUATION_FILE


def _read(run: Run) -> dict[str, Any] | None:
    path = _file(run)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        columns = {name: np.array(record[name], dtype=np.float64) for name in ("ids", "tokens", "nll")}
        if len({column.shape for column in columns.values()}) == 1 and isinstance(record["unit"], str):
            return {"unit": record["unit"], **columns}
        logger.warning("%s is left out of the comparison: its lists differ in length", path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is left out of the comparison: it cannot be read (%s)", path, error)
    return None


def _nll_by_seed(group: SeedGroup) -> dict[str, float]:
    best = ((str(seed), run.best_evaluation) for seed, run in zip(group.seeds, group.runs, strict=True))
    return {seed: record.nll for seed, record in best if record is not None and record.nll is not None}
