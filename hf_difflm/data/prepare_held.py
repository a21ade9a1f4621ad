"""Documents that are held, to blocks: training and evaluation kept apart, tokenised, packed, counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .making import BlockMaker
from .options import DataOptions
from .prepared import PreparedData
from .sentences import plural
from .sources.corpora import Corpus, load_corpus
from .sources.documents import Documents, cut_by_position, drop_shared, hash_documents, hold_out
from .sources.markov import MarkovSource, markov_states
from .text_ids import TextIds

TEST = "test"
_HELD_OUT = ("validation", TEST)


class Preparation(BlockMaker):
    """One call of `prepare_data`: what its steps share."""

    def __init__(self, options: DataOptions, tokenizer: PreTrainedTokenizerBase, text: TextIds | None = None) -> None:
        super().__init__(options, tokenizer, text)
        self.eval_source: MarkovSource | None = None
        self.train_source: MarkovSource | None = None

    def run(self, need_train: bool) -> PreparedData:
        train_documents, eval_documents, _, test = self.with_test(lambda: self._documents(need_train))
        train = None
        if train_documents is not None:
            train = self.blocks("train", train_documents, self.train_source, self.options.most_train_blocks())
        evaluation = self.blocks("eval", eval_documents, self.eval_source, self.options.max_eval_blocks)
        parts = [train_documents.fingerprint if train_documents else "", eval_documents.fingerprint]
        parts += [self._encoding(), str(self.options.block_size), *self.packed_otherwise]
        return PreparedData(
            train=train,
            eval=evaluation,
            source_nll=self._source_nll(eval_documents, len(evaluation)),
            fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            counts={side: self.counts[side] for side in ("train", "eval", "test") if side in self.counts},
            block_size=self.options.block_size,
            notes=self.notes,
            round_trip=self.round_trip,
            test=test,
            conventions=self.text.facts,
            held_out=self.holds_out,
        )

    def sides(self, need_train: bool) -> tuple[Documents | None, Any, Any, list[Documents]]:
        """Return training documents, evaluation and test blocks, and the documents of these two: a part of a mixture."""
        train, evaluation, tested, test = self.with_test(lambda: self._documents(need_train))
        blocks = self.blocks("eval", evaluation, self.eval_source, self.options.max_eval_blocks)
        return train, blocks, test, [one for one in (evaluation, tested) if one is not None]

    def _encoding(self) -> str:
        """What the blocks depend on beside the documents and ``block_size``."""
        return self.encoder.fingerprint

    # The documents of all sides.

    def _documents(self, need_train: bool) -> tuple[Documents | None, Documents, Documents | None]:
        options = self.options
        if options.eval_dataset is not None:
            eval_corpus = self._corpus(options.eval_dataset)
            spec = options.eval_split or _evaluation_split(eval_corpus, ()) or next(iter(eval_corpus.splits))
            train_corpus = self._corpus(options.dataset, options.dataset_config) if need_train else None
        else:
            eval_corpus = train_corpus = self._corpus(options.dataset, options.dataset_config)
            spec = options.eval_split or _evaluation_split(eval_corpus, (options.train_split,))
            if not need_train and is_held_out(options.eval_split, eval_corpus.splits):
                spec = None
        if spec is None:
            train, evaluation, test = self._held_out(eval_corpus)
            if need_train:
                return train, evaluation, test
            return None, evaluation if options.eval_split != TEST else _there_is(test, eval_corpus.name), None
        self.eval_source = eval_corpus.source
        evaluation = self._hashed(eval_corpus, spec)
        if train_corpus is None or not need_train:
            return None, evaluation, None
        self.train_source = train_corpus.source
        train = self._hashed(train_corpus, options.train_split)
        if train_corpus.source is None:
            train = self._without_shared(train, evaluation)
        elif train_corpus.name == eval_corpus.name and train_corpus.shares_rows(options.train_split, spec):
            raise UserError(
                f"splits {options.train_split!r} and {spec!r} of {train_corpus.name!r} share documents: choose others"
            )
        return train, evaluation, None

    def _corpus(self, name: str, config: str | None = None) -> Corpus:
        self.tell_left_out(name, config)
        options = self.options
        corpus = load_corpus(
            name,
            config,
            text_column=options.text_column,
            block_size=options.block_size,
            skip_bad_rows=options.skip_bad_rows,
        )
        if corpus.note:
            self.notes.append(corpus.note)
        return corpus

    def _hashed(self, corpus: Corpus, spec: str) -> Documents:
        where = f"split {spec!r} of data set {corpus.name!r}"
        documents = hash_documents(corpus.split(spec), where, workers=self.options.num_preprocessing_workers)
        if documents.num_empty:
            self.notes.append(f"left out {plural(documents.num_empty, 'empty document')} of {where}")
        return documents

    def _held_out(self, corpus: Corpus) -> tuple[Documents, Documents, Documents | None]:
        fraction, for_test = self.options.eval_fraction, self.options.share_for_test
        self.holds_out = True
        documents = self._hashed(corpus, self.options.train_split)
        self.train_source = self.eval_source = corpus.source
        if len(set(documents.keys.tolist())) == 1:
            where = f"data set {corpus.name!r}"
            before = f", the {100 * for_test:.4g} % before them for the test" if for_test else ""
            self.notes.append(
                f"{where} is one document: its last {100 * fraction:.4g} % are for evaluation{before}, the rest for training"
            )
            return self._cut(documents, fraction, for_test, where)
        train, evaluation, test = hold_out(documents, fraction, for_test)
        beside = f", and {len(test):,} others for the test" if test is not None else ""
        self.notes.append(
            f"data set {corpus.name!r} has no evaluation split: held out {plural(len(evaluation), 'document')} of "
            f"{len(documents):,} by content hash{beside}"
        )
        return train, evaluation, test

    def _cut(
        self, documents: Documents, fraction: float, for_test: float, where: str
    ) -> tuple[Documents, Documents, Documents | None]:
        return cut_by_position(documents, fraction, where, for_test)

    def _without_shared(self, train: Documents, evaluation: Documents) -> Documents:
        kept = drop_shared(train, evaluation)
        if len(kept) == 0:
            raise UserError(
                f"every document of split {self.options.train_split!r} is an evaluation document, too: choose another "
                "eval_split or eval_dataset, or leave both out to hold out a share"
            )
        if len(kept) < len(train):
            dropped = plural(len(train) - len(kept), "training document")
            self.notes.append(f"left out {dropped} of {len(train):,} that the evaluation documents hold, too")
        return kept

    def _source_nll(self, documents: Documents, num_blocks: int) -> float | None:
        if self.eval_source is None:
            return None
        states = markov_states(documents.dataset[:num_blocks]["text"])
        return float(self.eval_source.sequence_nll(states).sum() / states.size)


def is_held_out(spec: str | None, splits: Iterable[str]) -> bool:
    """Whether a split is one that was held out of a data set without evaluation splits."""
    return spec in _HELD_OUT and not set(_HELD_OUT) & set(splits)


def _there_is(test: Documents | None, name: str) -> Documents:
    if test is None:
        raise UserError(
            f"data set {name!r} has no split 'test', and test_fraction 0 holds none out; leave out eval_split"
        )
    return test


def _evaluation_split(corpus: Corpus, taken: tuple[str, ...]) -> str | None:
    return next((name for name in ("validation", "test") if name in corpus.splits and name not in taken), None)
