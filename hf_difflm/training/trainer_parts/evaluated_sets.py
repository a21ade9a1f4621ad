"""What is remembered of evaluation sets: the last evaluation of each, and what reading one as a whole has told."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ...evaluation.likelihood.evaluate import LikelihoodResult

_MOST_SETS = 16


@dataclass(frozen=True)
class Evaluated:
    """The last evaluation under one prefix.

    Attributes:
        result: what was found.
        whole: the set as it was given.
        scored: what of it was scored.
    """

    result: LikelihoodResult
    whole: Any
    scored: Any


class OfSets:
    """Keeps what was found out about a set, for the sets that were evaluated last."""

    def __init__(self) -> None:
        self._found: OrderedDict[int, tuple[Any, dict[str, Any]]] = OrderedDict()

    def get(self, dataset: Any, name: str) -> Any:
        """What is kept under ``name``; None where nothing is."""
        kept = self._found.get(id(dataset))
        return None if kept is None else kept[1].get(name)

    def keep(self, dataset: Any, name: str, value: Any) -> None:
        """Keep a value, and the set with it, so that its id stays its own."""
        _, values = self._found.setdefault(id(dataset), (dataset, {}))
        values[name] = value
        self._found.move_to_end(id(dataset))
        while len(self._found) > _MOST_SETS:
            self._found.popitem(last=False)
