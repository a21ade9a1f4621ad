"""The optimiser of a run and its learning rates, from the settings in its log."""

from __future__ import annotations

from dataclasses import dataclass

from ..journal.run import Run
from ..journal.tables import UNKNOWN, shortened

_MUON = "muon"


@dataclass(frozen=True)
class Rates:
    """How fast the weights of a run move.

    Attributes:
        optim: name of the optimiser; None where the log does not say it.
        learning_rate: peak, with Muon of the weight matrices.
        adamw_learning_rate: with Muon the peak of embeddings, LM head and norms; else None.
    """

    optim: str | None
    learning_rate: float | None
    adamw_learning_rate: float | None

    @classmethod
    def of(cls, run: Run) -> Rates:
        """Return those of a run."""
        optim, rate = run.config.get("optim"), _number(run.config.get("learning_rate"))
        beside = _number(run.config.get("adamw_learning_rate"))
        if optim == _MUON and beside is None:
            beside = rate
        return cls(optim if isinstance(optim, str) else None, rate, beside)

    def __str__(self) -> str:
        if self.learning_rate is None:
            return UNKNOWN
        named = f"{shortened(self.optim)} " if self.optim else ""
        beside = "" if self.adamw_learning_rate is None else f", AdamW {self.adamw_learning_rate:g}"
        return f"{named}{self.learning_rate:g}{beside}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
