"""What a run reads, once it is ready to be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from .sentences import plural

_described: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()
"""By training set, for as long as it is there: a Trainer is given the set alone."""


@dataclass(frozen=True)
class SideCounts:
    """How much text one side has; tokens are scored tokens (every block also has its BOS).

    Attributes:
        documents: non-empty documents; None where the text is a stream, which nobody has read to its end.
        blocks: blocks used, ``tokens`` in them, which stand for ``num_bytes`` bytes of UTF-8 (None: not counted).
        dropped_tokens: tokens at the end that did not fill a block.
    """

    documents: int | None
    blocks: int
    tokens: int
    dropped_tokens: int
    num_bytes: int | None

    def sentence(self, block_size: int) -> str:
        """Return the counts in words."""
        words = [
            "" if self.documents is None else plural(self.documents, "document"),
            f"{plural(self.blocks, 'block')} of {block_size:,} tokens",
            f"{self.tokens:,} scored tokens",
            "" if self.num_bytes is None else f"{self.num_bytes:,} bytes",
        ]
        dropped = f" ({plural(self.dropped_tokens, 'token')} dropped at the end)" if self.dropped_tokens else ""
        return ", ".join(word for word in words if word) + dropped


@dataclass(frozen=True)
class RowCounts(SideCounts):
    """How much there is where documents are kept apart; ``blocks`` are rows, of one piece each in an evaluation.

    Attributes:
        pieces: documents, and parts of those that are longer than a row.
        padding_share: share of the rows that no token fills.
    """

    pieces: int = 0
    padding_share: float = 0.0

    def sentence(self, block_size: int) -> str:
        """Return the counts in words."""
        words = [
            "" if self.documents is None else plural(self.documents, "document"),
            "" if self.pieces == self.documents else f"{plural(self.pieces, 'piece')} of at most {block_size:,} tokens",
            "" if self.pieces == self.blocks else f"{plural(self.blocks, 'row')} of {block_size:,} tokens",
            f"{self.tokens:,} scored tokens",
            "" if self.num_bytes is None else f"{self.num_bytes:,} bytes",
        ]
        padding = "" if self.pieces == self.blocks else f" ({100 * self.padding_share:.2g} % padding)"
        return ", ".join(word for word in words if word) + padding


@dataclass(frozen=True)
class PreparedData:
    """What a run reads.

    Attributes:
        train: blocks with ``input_ids`` (block_size,), and ``num_bytes`` where they are held: a `datasets.Dataset`, a
            `BlockStream` or `BlockFile`; None if training data was not asked for.
        eval: blocks with both and ``document_ids`` (block_size,), -1 at BOS, and ``index``, the row's number.
        source_nll: nats per scored token of the very evaluation blocks under the source that made them, which no
            model can beat but by chance; None where the source is not known.
        fingerprint: SHA-256 of the documents of both sides, the tokenizer and the block size.
        counts: by side, ``train``, ``eval`` and ``test``; no ``train`` where that is a stream without an end.
        block_size: tokens in a block, BOS included.
        notes: sentences on what was decided on the way, as what was left out; ``prepare_data`` logs them as warnings.
        round_trip: where the tokenizer does not give the evaluation text back, how much of it; else empty. There are no
            ``num_bytes`` then.
        mixture: share of the training tokens by data set, where the training text is of several.
        test: as ``eval``, for the headline alone; None where nothing was held out for it.
        held_out: whether ``eval`` is a share that was held out, of text without an evaluation split.
        conventions: ``add_bos`` and ``bos_token`` of the blocks; empty where they are those of a training.
    """

    train: Any
    eval: Any
    source_nll: float | None
    fingerprint: str
    counts: dict[str, SideCounts]
    block_size: int
    notes: list[str] = field(default_factory=list)
    round_trip: dict[str, Any] = field(default_factory=dict)
    test: Any = None
    mixture: dict[str, float] = field(default_factory=dict)
    conventions: dict[str, Any] = field(default_factory=dict)
    held_out: bool = False

    def __post_init__(self) -> None:
        if self.train is not None:
            _described[self.train] = self.description()

    def description(self) -> dict[str, Any]:
        """Return what the header of a run log says of the data."""
        return {
            "fingerprint": self.fingerprint,
            "counts": {side: asdict(counts) for side, counts in self.counts.items()},
            "source_nll": self.source_nll,
            **({"mixture": self.mixture} if self.mixture else {}),
            **({"round_trip": self.round_trip} if self.round_trip else {}),
            "notes": self.notes,
        }

    def summary(self) -> str:
        """Return a line for each side and each note, for the terminal."""
        lines = [f"{side}: {count.sentence(self.block_size)}" for side, count in self.counts.items()]
        if self.source_nll is not None:
            lines.append(f"the source itself has {self.source_nll:.4f} nats per token on the evaluation blocks")
        if getattr(self.train, "is_stream", False):
            lines.append(f"train: a stream, shuffled within windows of {plural(self.train.window_size, 'block')}")
        if self.mixture:
            lines.append(f"train: {mixture_said(self.mixture)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def described(train: Any) -> dict[str, Any]:
    """Return the description of the data whose ``train`` this very object is; of any other training set nothing is known."""
    try:
        return _described.get(train, {})
    except TypeError:  # a list of rows, of which there is no hash
        return {}


def mixture_said(mixture: dict[str, float]) -> str:
    """Return shares in words."""
    return "a mixture of " + ", ".join(f"{name} ({100 * share:.4g} % of the tokens)" for name, share in mixture.items())
