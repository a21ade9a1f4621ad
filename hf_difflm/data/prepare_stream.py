"""From options to blocks where the training text is a stream."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from hf_difflm.errors import UserError

from .encoding import DocumentEncoder
from .making import BlockMaker
from .options import APART, PAPER
from .prepare_held import TEST, is_held_out
from .prepared import PreparedData, SideCounts
from .sentences import plural
from .sources.documents import NO_DOCUMENTS, Documents, hash_documents
from .streaming import BlockStream, LeftOut, Opened, PackedStream, evaluation_documents, open_stream
from .streaming.evaluation import Measure
from .streaming.sources import Source, TextColumn

MOST_EVAL_BLOCKS = 1024
"""Evaluation blocks of a stream where ``max_eval_blocks`` is not given."""


class StreamPreparation(BlockMaker):
    """Training blocks as a `BlockStream`, evaluation blocks held.

    The evaluation documents are the first of ``eval_dataset``, of ``eval_split``, of the validation or test split, or,
    where there is none, of those whose content hash lies in the lowest ``eval_fraction`` of all hashes. Training sees
    neither these documents nor any other that is held out. In a .txt file a document is a stretch of lines.
    """

    def run(self, need_train: bool) -> PreparedData:
        """Return what `prepare_data` returns.

        Raises:
            UserError: for whatever is wrong with the data.
        """
        options = self.options
        evaluation, left_out, test = self._evaluated(need_train)
        blocks = self.blocks("eval", evaluation, None, self._most_eval_blocks)
        train = self._stream(self._opened, left_out) if need_train else None
        parts = [train.fingerprint if train is not None else "", evaluation.fingerprint]
        parts += [self._encoding(), str(options.block_size), *self.packed_otherwise]
        return PreparedData(
            train=train,
            eval=blocks,
            source_nll=None,
            fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            counts={side: self.counts[side] for side in ("train", "eval", "test") if side in self.counts},
            block_size=options.block_size,
            notes=self.notes,
            round_trip=self.round_trip,
            test=test,
            held_out=self.holds_out,
        )

    def sides(self, need_train: bool) -> tuple[None, Any, Any, LeftOut]:
        """Return evaluation and test blocks, and what is not trained on, in their places: a part of a mixture."""
        evaluation, left_out, test = self._evaluated(need_train)
        return None, self.blocks("eval", evaluation, None, self._most_eval_blocks), test, left_out

    def _evaluated(self, need_train: bool) -> tuple[Documents, LeftOut, Any]:
        """Open the stream; evaluation documents, what is not trained on, and the blocks of the test."""
        options = self.options
        self._opened = self._open(options.dataset, options.dataset_config)
        self.tell_left_out(options.dataset, options.dataset_config)
        evaluation, left_out, _, test = self.with_test(lambda: self._evaluation(self._opened, need_train))
        return evaluation, left_out, test

    def stream(self, left_out: LeftOut) -> BlockStream:
        """Return the training blocks, after :meth:`sides`."""
        return self._stream(self._opened, left_out)

    def _open(self, name: str, config: str | None = None) -> Opened:
        return open_stream(name, config, TextColumn(self.options.text_column), self.options.skip_bad_rows)

    def _measure(self) -> tuple[Measure, int]:
        """How much a document is, and how much text is evaluated on."""
        return _Tokens(self.encoder), self._most_eval_blocks * (self.options.block_size - 1) + 1

    def _encoding(self) -> str:
        """What the rows depend on beside the documents and ``block_size``."""
        return self.encoder.fingerprint

    @property
    def _most_eval_blocks(self) -> int:
        return self.options.max_eval_blocks or MOST_EVAL_BLOCKS

    def _evaluation(self, opened: Opened, need_train: bool) -> tuple[Documents, LeftOut, Documents | None]:
        options, test = self.options, None
        if options.eval_dataset is None:
            corpus = opened
            spec = options.eval_split or _evaluation_split(opened, options.train_split)
            if not need_train and is_held_out(options.eval_split, opened.splits):
                spec = None
        else:
            corpus = self._open(options.eval_dataset)
            self.tell_left_out(options.eval_dataset)
            spec = options.eval_split or _evaluation_split(corpus, None) or corpus.splits[0]
        shares: list[LeftOut | None] = [None]
        if spec is None:
            self.holds_out = True
            shares = [LeftOut(options.eval_fraction)]
            if options.share_for_test:
                shares.append(LeftOut(options.share_for_test, beyond=options.eval_fraction))
            if not need_train and options.eval_split == TEST:
                shares = shares[1:] or [LeftOut()]
        chosen = shares[0]
        source = corpus.source(spec or options.train_split)
        where = f"the evaluation text of {corpus.name!r}"
        measure, amount = self._measure()
        texts, *others = evaluation_documents(source, measure, amount, shares)
        documents = hash_documents(texts, where)
        if others:
            test = hash_documents(others[0], f"the test text of {corpus.name!r}") if len(others[0]) else NO_DOCUMENTS
        count = plural(len(documents), "document")
        if chosen is not None:
            self.notes.append(
                f"data set {corpus.name!r} has no evaluation split: {100 * chosen.fraction:g} % of its documents are held "
                f"out by content hash, and the evaluation blocks are of the first {count} of them"
                + (f"; {100 * options.share_for_test:g} % for the test" if options.share_for_test else "")
            )
        if options.max_eval_blocks is None:
            self.notes.append(
                f"a stream has at most {MOST_EVAL_BLOCKS:,} evaluation blocks unless max_eval_blocks says more"
            )
        if chosen is None:
            return documents, LeftOut(keys=frozenset(documents.keys.tolist())), None
        return documents, LeftOut(options.eval_fraction + options.share_for_test), test

    def _stream(self, opened: Opened, left_out: LeftOut) -> BlockStream:
        options = self.options
        source = opened.source(options.train_split)
        num_blocks = self.options.most_train_blocks()
        keys = hashlib.sha256(str(sorted(left_out.keys)).encode()).hexdigest()
        parts = [source.fingerprint, self._encoding(), str(left_out.fraction), keys]
        parts += [str(options.block_size), str(options.shuffle_window), *self.packed_otherwise]
        return self._made(source, left_out, num_blocks, hashlib.sha256("\n".join(parts).encode()).hexdigest())

    def _made(self, source: Source, left_out: LeftOut, num_blocks: int | None, fingerprint: str) -> BlockStream:
        options = self.options
        if num_blocks is not None:
            tokens = num_blocks * (options.block_size - 1)  # of packed rows, at most
            self.counts["train"] = SideCounts(None, num_blocks, tokens, dropped_tokens=0, num_bytes=None)
        rows = self._rows_of(num_blocks, fingerprint)
        if options.packing == PAPER:
            raise UserError(
                "packing mdlm reads a thousand documents at once, which a stream does not; set packing to concat"
            )
        if options.packing in APART:
            return PackedStream(source, left_out, self.encoder, **rows, packing=options.packing)
        return BlockStream(source, left_out, self.encoder, **rows)

    def _rows_of(self, num_blocks: int | None, fingerprint: str) -> dict[str, Any]:
        """What a stream of rows is told beside where its documents come from, and how they become tokens."""
        return {
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "block_size": self.options.block_size,
            "window_size": self.options.shuffle_window,
            "num_blocks": num_blocks,
            "tokens_per_chunk": self.options.tokens_per_chunk,
            "fingerprint": fingerprint,
        }


@dataclass(frozen=True)
class _Tokens:
    """A document is as many tokens as it has, and the EOS behind it."""

    encoder: DocumentEncoder

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    def size(self, text: str) -> int:
        return len(self.encoder.encode_ids([text])[0]) + 1


def _evaluation_split(opened: Opened, taken: str | None) -> str | None:
    return next((split for split in ("validation", "test") if split in opened.splits and split != taken), None)
