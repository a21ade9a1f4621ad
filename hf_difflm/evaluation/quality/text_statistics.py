"""How varied and how repetitive a text is, from its tokens alone: no model, no torch.

A text is a sequence of tokens, and a token is anything hashable: ids, words, bytes (:func:`tokens_of` splits strings).
All of these depend on the length of the text and on what a token is: compare texts of one length and one tokenizer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import numpy as np

from ...errors import UserError

Tokens = Sequence[Hashable]
UNITS = ("words", "bytes")


@dataclass(frozen=True)
class TextQuality:
    """The numbers of one text; None where it is too short for them (``length`` and ``longest_run`` are 0 when empty).

    Attributes:
        length: tokens.
        distinct_1, distinct_2, distinct_3: distinct n-grams over n-grams, in (0, 1]; 1 repeats nothing.
        longest_run: tokens in the longest run of one token.
        repeated_4: share of 4-grams that occurred before in the text, in [0, 1).
        unigram_entropy: nats, of the distribution of the text's own tokens; 0 for a single token over and over.
        top_share: share of the most frequent token, in (0, 1].
    """

    length: int
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    longest_run: int
    repeated_4: float | None
    unigram_entropy: float | None
    top_share: float | None

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the numbers by their names, in the order above."""
        return asdict(self)


def text_quality(tokens: Tokens) -> TextQuality:
    """Return all numbers of one text."""
    return TextQuality(
        length=len(tokens),
        distinct_1=distinct_n([tokens], 1),
        distinct_2=distinct_n([tokens], 2),
        distinct_3=distinct_n([tokens], 3),
        longest_run=longest_run(tokens),
        repeated_4=repeated_n(tokens, 4),
        unigram_entropy=unigram_entropy(tokens),
        top_share=top_share(tokens),
    )


def distinct_n(texts: Sequence[Tokens], n: int) -> float | None:
    """Return distinct n-grams over n-grams, those of all texts together; None where no text has an n-gram.

    distinct-n of Li et al. 2016 (arXiv 1510.03055). No n-gram reaches from one text into the next.

    Raises:
        UserError: n is below 1.
    """
    if n < 1:
        raise UserError(f"n is {n}; an n-gram has at least 1 token")
    total = sum(max(len(text) - n + 1, 0) for text in texts)
    seen = {gram for text in texts for gram in zip(*(text[start:] for start in range(n)), strict=False)}
    return len(seen) / total if total else None


def repeated_n(tokens: Tokens, n: int) -> float | None:
    """Return the share of n-grams that occurred before in the text; None where it has none.

    seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319), whose text uses n = 4.

    Raises:
        UserError: n is below 1.
    """
    distinct = distinct_n([tokens], n)
    return None if distinct is None else 1.0 - distinct


def longest_run(tokens: Tokens) -> int:
    """Return the length of the longest run of one token, 0 for an empty text."""
    return max((sum(1 for _ in run) for _, run in groupby(tokens)), default=0)


def unigram_entropy(tokens: Tokens) -> float | None:
    """Return the entropy, in nats, of the distribution of the text's own tokens; None for an empty text.

    At most ``log(len(tokens))``. Text whose entropy is far below that of real text of its length is degenerate, however
    likely a language model finds it (arXiv 2409.02908).
    """
    if not tokens:
        return None
    share_V = np.array(list(Counter(tokens).values())) / len(tokens)
    return max(0.0, float(-(share_V * np.log(share_V)).sum()))  # of a single token 0, not -0


def top_share(tokens: Tokens) -> float | None:
    """Return the share of the most frequent token; None for an empty text."""
    return max(Counter(tokens).values()) / len(tokens) if tokens else None


def tokens_of(text: str, unit: str = "words") -> Tokens:
    """Split a string into ``words`` (runs of letters and digits; every other sign is one of its own) or ``bytes``.

    Raises:
        UserError: another unit.
    """
    if unit == "words":
        return re.findall(r"\w+|[^\w\s]", text)
    if unit == "bytes":
        return text.encode("utf-8", "surrogatepass")
    raise UserError(f"unit is {unit!r}; choose one of {', '.join(UNITS)}")


def mean_quality(qualities: Sequence[TextQuality]) -> dict[str, float | None]:
    """Return the mean over texts of each number, leaving out the texts that are too short for it."""
    columns = {name: [quality.as_dict()[name] for quality in qualities] for name in TextQuality.__annotations__}
    known = {name: [value for value in values if value is not None] for name, values in columns.items()}
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}
