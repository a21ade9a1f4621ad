"""Quality of generated text against what it cost: points, which of them are worth having, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..journal.tables import UNKNOWN, count, duration, number

CAUSAL = "causal LM"
"""Name of the sampler of a causal LM: a token after the other."""


@dataclass(frozen=True)
class GenerationPoint:
    """What one way of sampling gives and takes; None where it is unknown.

    Attributes:
        sampler: its name; :data:`CAUSAL` for the autoregressive twin.
        steps: most denoising steps; None for a causal LM, and for a sampler that says itself how many tokens a step reveals.
        samples: how many texts.
        tokens: mean length of a text.
        reference_perplexity: of the texts under a causal LM.
        reference_entropy: nats, of the tokens of each text by the reference's tokenizer, the mean over texts.
        unigram_entropy: the same by the model's own tokenizer.
        distinct_1, distinct_2, distinct_3: distinct n-grams over n-grams of all texts together.
        mauve: against real texts.
        forwards: sequences through the model, a text; of a causal LM with a cache each is of one token.
        seconds: wall-clock time, a text, where ``batch_size`` were generated together.
        batch_size: texts generated together.
        parameters: of the sampler, as far as they were given.
    """

    sampler: str
    steps: int | None
    samples: int
    tokens: float
    reference_perplexity: float | None
    reference_entropy: float | None
    unigram_entropy: float | None
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    mauve: float | None
    forwards: float
    seconds: float
    batch_size: int
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The sampler with the parameters that were given: ``remdm eta=0.1``."""
        return " ".join([self.sampler, *(f"{name}={value}" for name, value in self.parameters.items())])

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by their names, in the order above."""
        return asdict(self)


def pareto_front(points: Sequence[GenerationPoint]) -> list[bool]:
    """Return which points no other one beats.

    One beats another if it is no worse in perplexity, entropy (higher is better) and forwards, and better in one of them.
    Without the entropy, text that repeats itself would beat everything (arXiv 2409.02908). A causal LM, whose forwards
    are of another kind, is left out, and so is what has no perplexity.
    """
    keys = [_key(point) for point in points]
    return [key is not None and not any(other is not None and _beats(other, key) for other in keys) for key in keys]


def _key(point: GenerationPoint) -> tuple[float, float, float] | None:
    if point.sampler == CAUSAL or point.reference_perplexity is None or point.reference_entropy is None:
        return None
    return point.reference_perplexity, -point.reference_entropy, point.forwards


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


HEADINGS = (
    "sampler",
    "steps",
    "perplexity",
    "entropy",
    "distinct-1/2/3",
    "MAUVE",
    "forwards",
    "time a text",
    "front",
)


def pareto_rows(points: Sequence[GenerationPoint]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows; a column nobody has a value for is left out."""
    rows = []
    for point, best in zip(points, pareto_front(points), strict=True):
        distinct = " / ".join(number(value, 2) for value in (point.distinct_1, point.distinct_2, point.distinct_3))
        entropy = point.unigram_entropy if point.reference_entropy is None else point.reference_entropy
        rows.append(
            [
                point.label,
                count(point.steps),
                number(point.reference_perplexity, 2),
                number(entropy, 3),
                distinct,
                number(point.mauve, 3),
                number(point.forwards, 1),
                duration(point.seconds),
                "*" if best else "",
            ]
        )
    known = [place for place in range(len(HEADINGS)) if any(row[place] not in (UNKNOWN, "") for row in rows)]
    return [HEADINGS[place] for place in known], [[row[place] for place in known] for row in rows]
