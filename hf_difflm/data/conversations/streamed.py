"""Conversations that are read while the training goes on: rows of answers by their number, as blocks of a stream are."""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_difflm.errors import UserError

from ..options import ALL, APART
from ..prepare_stream import StreamPreparation
from ..sentences import plural
from ..sources.bad_rows import SkippedRows
from ..streaming import BlockStream, LeftOut, Opened, PackedStream, open_stream
from ..streaming.evaluation import Measure
from ..streaming.packed import Piece
from ..streaming.reader import START
from ..streaming.sources import Position, Source
from .answers import AnswerEncoder, EncodedAnswer
from .rows import ConversationText
from .sft import ConversationRows


class SftStreamPreparation(ConversationRows, StreamPreparation):
    """Conversations for evaluation are held, see `StreamPreparation`; those for training are a `ConversationStream`."""

    def _open(self, name: str, config: str | None = None) -> Opened:
        rows = ConversationText()
        opened = open_stream(name, config, rows, self.options.skip_bad_rows, (".jsonl", ".parquet"))
        if opened.splits:  # a look at the first row tells the format
            next(iter(opened.source(opened.splits[0]).pieces()), None)
        if rows.formats:
            self.notes.append(f"conversations in the format {' and '.join(rows.formats)}")
        return opened

    def _measure(self) -> tuple[Measure, int]:
        return _Conversations(), self._most_eval_blocks

    def _encoding(self) -> str:
        return self.answers.fingerprint

    def _made(self, source: Source, left_out: LeftOut, num_blocks: int | None, fingerprint: str) -> BlockStream:
        options = self.options
        which = "each answer is a row" if options.sft_turns == ALL else "the last answer of each is a row"
        end = "without end" if num_blocks is None else f"{plural(num_blocks, 'row')} an epoch"
        which += ", of which several share one" if options.packing in APART else ""
        self.notes.append(f"train: conversations are read while training, {end}; {which}")
        rows = {**self._rows_of(num_blocks, fingerprint), "skip_bad_rows": options.skip_bad_rows}
        # A copy: the thread that reads must not meet who tokenises prompts meanwhile.
        answers = AnswerEncoder(copy.deepcopy(self.tokenizer), self.answers.filled_to, options.sft_turns)
        if options.packing in APART:
            return PackedConversationStream(source, left_out, answers, **rows, packing=options.packing)
        return ConversationStream(source, left_out, answers, **rows)


class ConversationStream(BlockStream):
    """The answers of a stream of conversations by their number: rows of different lengths, see `BlockStream`."""

    encoder: AnswerEncoder  # type: ignore[assignment]

    def __init__(self, *args: Any, skip_bad_rows: bool, **kwargs: Any) -> None:
        self.skip_bad_rows = skip_bad_rows
        super().__init__(*args, **kwargs)

    def _open(self, state: dict[str, Any] | None = None) -> ConversationReader:
        return ConversationReader(
            self.source, self.encoder, self.left_out, self.block_size, self.skip_bad_rows, state or START
        )

    def _row(self, blocks: Any, place: int) -> dict[str, np.ndarray]:
        answer: EncodedAnswer = blocks[place]
        return {"input_ids": answer.ids.copy(), "labels": answer.labels}

    def _finished(self, blocks: Any) -> Any:
        return blocks


class AnswerPieces:
    """Each answer is a piece of a packed row; see :class:`~hf_difflm.data.streaming.packed.Pieces`."""

    def __init__(self, reader: ConversationReader) -> None:
        self.reader = reader

    @property
    def state(self) -> dict[str, Any]:
        return self.reader.state

    @property
    def passes(self) -> int:
        return self.reader.passes

    def next(self) -> Piece:
        (answer,) = self.reader.read(1)
        return answer.ids, answer.labels

    def one_pass(self) -> Iterator[Piece]:
        for answers in self.reader.one_pass(1):
            yield from ((answer.ids, answer.labels) for answer in answers)


class PackedConversationStream(PackedStream):
    """Rows of several answers of a stream of conversations by their number, see `PackedStream`."""

    encoder: AnswerEncoder  # type: ignore[assignment]

    def __init__(self, *args: Any, skip_bad_rows: bool, **kwargs: Any) -> None:
        self.skip_bad_rows = skip_bad_rows
        super().__init__(*args, **kwargs)

    def _open_pieces(self, state: dict[str, Any] | None) -> AnswerPieces:
        return AnswerPieces(
            ConversationReader(
                self.source, self.encoder, self.left_out, self.block_size, self.skip_bad_rows, state or START
            )
        )


@dataclass
class _Read:
    """The rows of a conversation that are not yet used: all but the first ``taken``."""

    position: Position
    passes: int
    rows: list[EncodedAnswer]
    taken: int = 0


@dataclass
class ConversationReader:
    """Reads a source again and again from its beginning, as one stream of answers.

    Attributes:
        state: to go on from there.
    """

    source: Source
    encoder: AnswerEncoder
    left_out: LeftOut
    block_size: int
    skip_bad_rows: bool
    begin: dict[str, Any]
    _buffer: deque[_Read] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._passes: int = self.begin["passes"]
        self._skip: int = self.begin["skip"]
        self._done = self._passes
        self._any = self.begin["position"] is not None
        self._pieces = self.source.pieces(self.begin["position"])
        self._bad = SkippedRows(self.source.name, self.skip_bad_rows)
        self._long = SkippedRows(self.source.name, True, what="long conversation")

    @property
    def state(self) -> dict[str, Any]:
        """Where the next row begins, as plain JSON."""
        while not self._buffer:
            self._fill()
        head = self._buffer[0]
        return {"position": head.position, "skip": head.taken, "separate": False, "passes": head.passes}

    @property
    def passes(self) -> int:
        """How often the text has ended before what :meth:`read` returned last."""
        return self._done

    def read(self, num_rows: int) -> list[EncodedAnswer]:
        """Return the next rows.

        Raises:
            UserError: the source cannot be read, or holds no conversation for training.
        """
        found: list[EncodedAnswer] = []
        while len(found) < num_rows:
            while not self._buffer:
                self._fill()
            head = self._buffer[0]
            self._done = head.passes
            found.append(head.rows[head.taken])
            head.taken += 1
            if head.taken == len(head.rows):
                self._buffer.popleft()
        return found

    def one_pass(self, num_rows: int) -> Iterator[list[EncodedAnswer]]:
        """Yield rows, ``num_rows`` at a time, until the pass ends; for a reader that has read nothing."""
        found: list[EncodedAnswer] = []
        while True:
            while not self._buffer:
                self._fill()
            if self._buffer[0].passes:
                break
            found += self.read(1)
            if len(found) == num_rows:
                yield found
                found = []
        if found:
            yield found

    def _fill(self) -> None:
        """Read a conversation into the buffer, if there is something to learn in it."""
        piece = next(self._pieces, None)
        if piece is None:
            if not self._any:
                raise UserError(
                    f"{self.source.name} holds no conversation to train on that fits into block_size {self.block_size}; "
                    "give more, or raise block_size"
                )
            self._passes += 1
            self._any = False
            self._pieces = self.source.pieces()
            return
        skip, self._skip = self._skip, 0
        if piece.text in self.left_out:
            return
        at = piece.position
        place = (at["file"], at["offset"]) if "file" in at else (0, at["row"])
        try:
            rows = self.encoder.rows(piece.text)
        except UserError as error:
            self._bad.meet(error, place)
            return
        fitting = [row for row in rows if len(row.ids) <= self.block_size]
        if len(fitting) < len(rows):
            longest = max(len(row.ids) for row in rows)
            self._long.meet(UserError(f"it takes {longest:,} tokens, more than block_size {self.block_size}"), place)
        if len(fitting) > skip:
            self._buffer.append(_Read(piece.position, self._passes, fitting, skip))
            self._any = True


@dataclass(frozen=True)
class _Conversations:
    """A conversation is one, however long."""

    fingerprint: str = hashlib.sha256(b"conversations").hexdigest()

    def size(self, text: str) -> int:
        return 1
