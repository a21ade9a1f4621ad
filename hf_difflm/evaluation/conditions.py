"""Under what conditions a likelihood or a task's number came about, by the same names in every table and every JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

P0, EXACT = "P0", "exact"
_TITLES = {P0: "P0 (nelbo)"}


@dataclass(frozen=True)
class Conditions:
    """What has to be said beside a number, so that somebody else's can be compared with it.

    Args:
        protocol: ``P0`` (the bound of plain masked diffusion, uniform counts), ``exact`` (a causal LM, or diffusion blocks
            of one token), or that of another project.
        draws: of noise, of each text or continuation; None where nothing is drawn.
        bos_token: what a text begins with; None: with its first token.
        chat_template: whether texts were written by the tokenizer's chat template.
    """

    protocol: str
    draws: int | None
    bos_token: str | None
    chat_template: bool

    def to_json(self) -> dict[str, Any]:
        """``protocol``, ``draws``, ``bos_token``, ``chat_template``."""
        return asdict(self)

    def rows(self, title: str | None = None) -> list[tuple[str, str]]:
        """Name and words of each, for a table.

        Args:
            title: what to call the protocol; default: its own words.
        """
        words = title or _TITLES.get(self.protocol, self.protocol)
        return [
            ("protocol", words),
            ("draws", "none" if self.draws is None else f"{self.draws}"),
            ("a text begins with", "no BOS" if self.bos_token is None else self.bos_token),
            ("chat template", "applied" if self.chat_template else "not applied"),
        ]


def of_bound(bound: str, draws: int, bos_token: str | None, chat_template: bool) -> Conditions:
    """Those of an evaluation whose number is a ``nelbo``, or ``exact``."""
    is_drawn = bound == "nelbo"
    return Conditions(P0 if is_drawn else EXACT, draws if is_drawn else None, bos_token, chat_template)
