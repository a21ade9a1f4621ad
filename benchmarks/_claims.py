"""What a benchmark claims: the medians of its sides, the number that is compared, what was asked of it, whether it holds."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

_RELATIONS = {"<": operator.lt, "<=": operator.le, ">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True)
class Claim:
    """One claim, as it stands in the JSON of a benchmark and in a row of ``benchmarks/README.md``.

    Args:
        what: what is claimed, in words, without the numbers.
        sides: the median of each side, by name.
        unit: of the sides.
        measure: what is compared, in words: ``full / labelled``, ``hooks, ms a step``.
        value: its number; a ratio of two sides is the median of the ratios within the pairs.
        asked: relation and bound, such as ``>= 1.6``.
    """

    what: str
    sides: dict[str, float]
    unit: str
    measure: str
    value: float
    asked: str

    @property
    def holds(self) -> bool:
        """Whether the number, rounded as it is shown, is as asked."""
        relation, bound = self.asked.split()
        return bool(_RELATIONS[relation](self._rounded, float(bound)))

    @property
    def _rounded(self) -> float:
        """To four decimals; small differences, which those would make 0, to three digits."""
        return round(self.value, 4) if abs(self.value) >= 0.01 else float(f"{self.value:.3g}")

    def to_json(self) -> dict[str, Any]:
        """Everything that a reader needs, the verdict included."""
        return {
            "what": self.what,
            "sides": self.sides,
            "unit": self.unit,
            "measure": self.measure,
            "value": self._rounded,
            "asked": self.asked,
            "holds": self.holds,
        }

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> Claim:
        """What :meth:`to_json` wrote; the verdict is found anew."""
        return cls(**{name: written[name] for name in ("what", "sides", "unit", "measure", "value", "asked")})
