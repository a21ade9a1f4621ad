"""What a run was evaluated on, unit by unit, and what two runs have in common: proved by digests, not by numbers of units."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..journal.atomic_files import write_text
from ..journal.run import Run
from ..journal.strict_json import dumps

logger = logging.getLogger(__name__)

EVALUATION_FILE = "best_evaluation.json"
"""Beside the journal: nll by unit of the evaluation that is kept in ``best/``."""

TEST_FILE = "test_evaluation.json"
"""The same of these weights on the test text."""

Keys = list[tuple[str, ...]]


@dataclass(frozen=True)
class EvaluatedUnits:
    """The units of one evaluation, each column of shape (U,).

    Attributes:
        step: optimiser steps done.
        unit: "documents" or "blocks".
        tokens: scored tokens.
        nll: nats.
        text, token_ids, context: digests; None where the log is older than they are. Of text also where no tokenizer told it.
        num_bytes: UTF-8 bytes of the scored text, as the tokenizer gives it back; None where it is not known.
    """

    step: int | None
    unit: str
    tokens: np.ndarray
    nll: np.ndarray
    text: list[str] | None = None
    token_ids: list[str] | None = None
    context: list[str] | None = None
    num_bytes: np.ndarray | None = None

    @property
    def proved(self) -> bool:
        """Whether it is known what the units are."""
        return self.token_ids is not None and self.context is not None

    def keys(self, *names: str) -> Keys:
        """Return one tuple of digests a unit; of what is there twice, the second is another than the first."""
        columns = [getattr(self, name) or [""] * len(self.tokens) for name in names]
        seen: Counter[tuple[str, ...]] = Counter()
        found = []
        for row in zip(*columns, strict=True):
            seen[row] += 1
            found.append((*row, str(seen[row])))
        return found


def shared(first: Keys, second: Keys) -> tuple[list[int], list[int]]:
    """Return the places, in both, of what is in both, in the order of the first."""
    where = {key: place for place, key in enumerate(second)}
    in_first = [place for place, key in enumerate(first) if key in where]
    return in_first, [where[first[place]] for place in in_first]


def same_units(first: Run, second: Run) -> bool | None:
    """Whether two runs were evaluated on the very same units; None where their logs do not say."""
    a, b = read_units(first), read_units(second)
    if a is None or b is None or not (a.proved and b.proved):
        return None
    names = ("text", "token_ids", "context")
    return a.unit == b.unit and sorted(a.keys(*names)) == sorted(b.keys(*names))


def units_file(run: Run) -> Path:
    """Return where the units of a run's best evaluation are kept, or those of its test where that is what is quoted."""
    return Path(run.path).parent / (TEST_FILE if run.on_test else EVALUATION_FILE)


def write_evaluation(
    folder: Path,
    step: int,
    unit: str,
    ids: Sequence[int],
    tokens: Sequence[int],
    nll: Sequence[float],
    contents: Mapping[str, Sequence[Any]] | None = None,
    name: str = EVALUATION_FILE,
) -> None:
    """Record an evaluation unit by unit.

    Args:
        folder: the run's log folder.
        step: optimiser steps done.
        unit: "documents" or "blocks".
        ids, tokens, nll: of each unit: its id, its scored tokens, its nll in nats.
        contents: of each unit the digests ``text``, ``tokens`` and ``context``, and ``num_bytes``
            (:class:`hf_difflm.evaluation.likelihood.contents.UnitContents`).
        name: of the file.
    """
    record: dict[str, Any] = {"iter": step, "unit": unit, "ids": list(ids), "tokens": list(tokens), "nll": list(nll)}
    if contents is not None:
        record["contents"] = {name: list(column) for name, column in contents.items()}
    write_text(folder / name, dumps(record))


def read_units(run: Run) -> EvaluatedUnits | None:
    """Return the units of a run's best evaluation; None where there is no such file, or a damaged one (a warning says so)."""
    path = units_file(run)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: np.array(record[name], dtype=np.float64) for name in ("tokens", "nll")}
        contents = record.get("contents") or {}
        columns = [*numbers.values(), record["ids"], *contents.values()]
        if len({len(column) for column in columns}) == 1 and isinstance(record["unit"], str):
            return EvaluatedUnits(
                record.get("iter"),
                record["unit"],
                numbers["tokens"],
                numbers["nll"],
                contents.get("text"),
                contents.get("tokens"),
                contents.get("context"),
                None if "num_bytes" not in contents else np.array(contents["num_bytes"], dtype=np.float64),
            )
        logger.warning("%s is left out of the comparison: its lists differ in length", path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is left out of the comparison: it cannot be read (%s)", path, error)
    return None
