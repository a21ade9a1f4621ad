"""Two models on the same documents: the difference of their nll, with the error of a paired comparison.

Documents differ far more among each other than two models do on one document, so the standard error of the paired
difference is much smaller than the data errors of the two numbers suggest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import write_text
from .run import Run
from .strict_json import dumps

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
        unit: "documents" or "blocks".
        bounds: bound of each number, "nelbo" or "exact".
    """

    first: str
    second: str
    nats: float
    stderr: float
    units: int
    unit: str
    bounds: tuple[str | None, str | None]

    def __str__(self) -> str:
        note = ""
        if self.bounds[0] != self.bounds[1]:
            note = "; one side is an upper bound, so the models may be closer than this"
        return (
            f"{self.first} - {self.second}: {self.nats:+.4f} ± {self.stderr:.4f} nats/token "
            f"(best evaluations, paired over {self.units} {self.unit}{note})"
        )


def paired_difference(first: Run, second: Run) -> PairedDifference | None:
    """Compare the best evaluations of two runs; None where they do not share at least two documents (or blocks)."""
    a, b = _read(first), _read(second)
    if a is None or b is None or a["unit"] != b["unit"]:
        return None
    _, in_a, in_b = np.intersect1d(a["ids"], b["ids"], return_indices=True)
    tokens_a, tokens_b = np.array(a["tokens"])[in_a], np.array(b["tokens"])[in_b]
    if len(in_a) < 2 or not np.array_equal(tokens_a, tokens_b):
        return None
    difference = np.array(a["nll"])[in_a] - np.array(b["nll"])[in_b]
    total, units = tokens_a.sum(), len(in_a)
    mean = difference.sum() / total
    residual = difference - mean * tokens_a
    return PairedDifference(
        first=first.objective or first.name,
        second=second.objective or second.name,
        nats=float(mean),
        stderr=float(math.sqrt(units / (units - 1) * (residual**2).sum()) / total),
        units=units,
        unit=a["unit"],
        bounds=(first.bound, second.bound),
    )


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


def _read(run: Run) -> dict[str, Any] | None:
    path = Path(run.path).parent / EVALUATION_FILE
    if not path.exists():
        return None
    return json.loads(path.read_text(encoding="utf-8"))
