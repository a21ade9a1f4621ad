"""From options to rows for supervised fine-tuning: prompts are context, answers are scored, one row a conversation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from ..caching import cached_map, code_digest
from ..making import BlockMaker, total_bytes
from ..options import ALL, APART, DataOptions
from ..prepare_held import Preparation
from ..prepared import SideCounts
from ..round_trip import round_trip
from ..sentences import plural
from ..sources.bad_rows import judge, without_bad
from ..sources.corpora import Corpus
from ..sources.documents import Documents
from ..sources.markov import MarkovSource
from . import answers, chat_template, marked_text, messages
from . import rows as conversations
from .answers import ANSWERS, CONVERSATION, AnswerEncoder, AnswerTables
from .chat_template import complete_chat_template
from .rows import UNUSED, load_conversations


@dataclass(frozen=True)
class ConversationCounts(SideCounts):
    """How much there is on one side; ``blocks`` are rows, ``tokens`` those of the answers, which are scored.

    Attributes:
        context_tokens: the other tokens: BOS and prompts.
        scored_share: share of all tokens that is scored.
        conversations: that the answers are of.
        answers: a row each, or, packed, several a row.
    """

    context_tokens: int = 0
    scored_share: float = 0.0
    conversations: int = 0
    answers: int = 0

    def sentence(self, block_size: int) -> str:
        """Return the counts in words."""
        words = [
            plural(self.conversations, "conversation"),
            "" if self.answers == self.conversations else plural(self.answers, "answer"),
            "" if self.answers == self.blocks else f"{plural(self.blocks, 'row')} of {block_size:,} tokens",
            f"{self.tokens + self.context_tokens:,} tokens",
            f"{self.tokens:,} of them scored ({100 * self.scored_share:.1f} %)",
            "" if self.num_bytes is None else f"{self.num_bytes:,} bytes",
        ]
        return ", ".join(word for word in words if word)


class ConversationRows(BlockMaker):
    """Rows ``input_ids`` and ``labels`` (-100 at context), of different lengths, each an answer with what comes before it.

    A row longer than ``block_size`` is left out, and said: cut, its answer would have no end, or its prompt no beginning.
    """

    def __init__(self, options: DataOptions, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(options, tokenizer)
        if (note := complete_chat_template(tokenizer)) is not None:
            self.notes.append(note)
        self.answers = AnswerEncoder(tokenizer, options.block_size if options.sft_fill_eos else None, options.sft_turns)

    def blocks(self, side: str, documents: Documents, source: MarkovSource | None, most: int | None) -> Any:
        """Return the rows of ``side``, train, eval or test, at most ``most``; counts them."""
        where = {"train": "the training set", "eval": "the evaluation set", "test": "the test set"}[side]
        tables = AnswerTables(self.answers, with_document_ids=side != "train")
        rows = cached_map(
            documents.dataset,
            tables,
            kind="answers",
            key=[documents.fingerprint, self.answers.fingerprint, side, _code()],
            features=tables.features,
            description="Tokenising conversations",
        )
        rows, bad = without_bad(rows)
        if note := judge(bad, len(rows), where, self.options.skip_bad_rows):
            self.notes.append(note)
        if counted := counted_names([rows]):
            self.notes.append(f"{side}: the tokenizer's chat template does not write {counted}")
        self._tell_turns(side, rows)
        rows = rows.remove_columns([UNUSED, ANSWERS])
        lengths = pc.list_value_length(_column(rows, "input_ids")).to_numpy()
        fits = lengths <= self.options.block_size
        what = "answer" if self.options.sft_turns == ALL else "conversation"
        if not fits.any():
            raise UserError(
                f"every conversation of {where} takes more than block_size {self.options.block_size} tokens, the shortest "
                f"{lengths.min():,}; raise block_size"
            )
        if not fits.all():
            self.notes.append(
                f"{side}: left out {plural(int((~fits).sum()), what)} of {len(fits):,} that take more than "
                f"block_size {self.options.block_size} tokens (the longest takes {lengths.max():,})"
            )
            rows = rows.select(np.flatnonzero(fits))
        packed = side == "train" and self.options.packing in APART
        if most is not None and most < len(rows) and not packed:
            self.notes.append(f"{side}: used the first {most:,} of {plural(len(rows), what)}")
            rows = rows.select(range(most))
        numbers = _column(rows, CONVERSATION)
        rows = rows.remove_columns(CONVERSATION).with_format("numpy")
        if side != "train":
            trip = round_trip(
                documents.dataset,
                self.encoder,
                key=f"{documents.fingerprint} {self.answers.fingerprint}",
                texts_of=_Scored(self.answers),
            )
            rows = self.without_lost_bytes(rows, trip, side)
        kept: Any = rows
        if packed:
            kept = self.packed(rows, most, "conversations")
            rows, numbers = rows.select(kept.numbers), numbers.take(pa.array(kept.numbers))
        conversations = len(pc.unique(numbers))
        total = sum(len(ids) for ids in rows["input_ids"])
        context = sum(int((labels == -100).sum()) for labels in rows["labels"])
        self.counts[side] = ConversationCounts(
            documents=len(documents),
            blocks=len(kept),
            tokens=total - context,
            dropped_tokens=0,
            num_bytes=total_bytes(rows),
            context_tokens=context,
            scored_share=(total - context) / total,
            conversations=conversations,
            answers=len(rows),
        )
        return kept

    def _tell_turns(self, side: str, rows: datasets.Dataset) -> None:
        """Note how many conversations have more than one answer, and what becomes of these."""
        counts = _column(rows, ANSWERS).to_numpy()
        several = counts[counts > 1]
        if len(several):
            told = (
                f"each of their {int(several.sum()):,} is a row"
                if self.options.sft_turns == ALL
                else f"the last alone is scored, and {int(several.sum()) - len(several):,} before them are context "
                f"(sft_turns {ALL} scores each)"
            )
            many = plural(int((counts > 0).sum()), "conversation")
            self.notes.append(f"{side}: {len(several):,} of {many} have several answers; {told}")


class SftPreparation(ConversationRows, Preparation):
    """Conversations that are held; those for evaluation are found as evaluation documents are."""

    def _encoding(self) -> str:
        return self.answers.fingerprint

    def _corpus(self, name: str, config: str | None = None) -> Corpus:
        self.tell_left_out(name, config)
        corpus = load_conversations(name, config, self.options.skip_bad_rows)
        if corpus.note:
            self.notes.append(corpus.note)
        rows = [split for split in corpus.splits.values() if UNUSED in split.column_names]
        if counted := counted_names(rows):
            self.notes.append(f"columns of data set {name!r} that are not used: {counted}")
        return corpus

    def _cut(
        self, documents: Documents, fraction: float, for_test: float, where: str
    ) -> tuple[Documents, Documents, Documents | None]:
        raise UserError(f"{where} is one conversation, of which nothing can be held out; give more, or an eval_dataset")


@dataclass
class _Scored:
    """The texts that are scored of a conversation; none where it makes no row, which is told elsewhere."""

    answers: AnswerEncoder

    def __call__(self, document: str) -> list[str]:
        try:
            return self.answers.scored_texts(document)
        except UserError:
            return []


def _column(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    """A column of the rows that are there, in their order."""
    return rows.select_columns(name).with_format("arrow")[:][name]


def counted_names(parts: list[datasets.Dataset]) -> str:
    """Return the names in the column of unused keys, each with how often: ``tools (in 3 conversations)``."""
    counts: Counter[str] = Counter()
    for rows in parts:
        for chunk in rows.with_format("arrow")[UNUSED].chunks if len(rows) else ():
            counts += {each["values"]: each["counts"] for each in pc.value_counts(chunk.flatten()).to_pylist()}
    return ", ".join(f"{name} (in {plural(count, 'conversation')})" for name, count in sorted(counts.items()))


def _code() -> str:
    return code_digest(
        *(str(module.__file__) for module in (answers, chat_template, conversations, marked_text, messages))
    )
