"""Documents that are held, to blocks: training and evaluation kept apart, tokenised, packed, counted."""

from __future__ import annotations

import hashlib

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


class Preparation(BlockMaker):
    """One call of `prepare_data`: what its steps share."""

    def __init__(self, options: DataOptions, tokenizer: PreTrainedTokenizerBase, text: TextIds | None = None) -> None:
        super().__init__(options, tokenizer, text)
        self.eval_source: MarkovSource | None = None
        self.train_source: MarkovSource | None = None

    def run(self, need_train: bool) -> PreparedData:
        train_documents, eval_documents = self._documents(need_train)
        train = None
        if train_documents is not None:
            train = self.blocks("train", train_documents, self.train_source, self.options.most_train_blocks())
        evaluation = self.blocks("eval", eval_documents, self.eval_source, self.options.max_eval_blocks)
        parts = [train_documents.fingerprint if train_documents else "", eval_documents.fingerprint]
        parts += [self._encoding(), str(self.options.block_size)]
        return PreparedData(
            train=train,
            eval=evaluation,
            source_nll=self._source_nll(eval_documents, len(evaluation)),
            fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            counts=self.counts,
            block_size=self.options.block_size,
            notes=self.notes,
            round_trip=self.round_trip,
            conventions=self.text.facts,
        )

    def _encoding(self) -> str:
        """What the blocks depend on beside the documents and ``block_size``."""
        return self.encoder.fingerprint

    # The documents of both sides.

    def _documents(self, need_train: bool) -> tuple[Documents | None, Documents]:
        options = self.options
        if options.eval_dataset is not None:
            eval_corpus = self._corpus(options.eval_dataset)
            spec = options.eval_split or _evaluation_split(eval_corpus, ()) or next(iter(eval_corpus.splits))
            train_corpus = self._corpus(options.dataset, options.dataset_config) if need_train else None
        else:
            eval_corpus = train_corpus = self._corpus(options.dataset, options.dataset_config)
            spec = options.eval_split or _evaluation_split(eval_corpus, (options.train_split,))
        if spec is None:
            held_in, held_out = self._held_out(eval_corpus)
            return held_in if need_train else None, held_out
        self.eval_source = eval_corpus.source
        evaluation = self._hashed(eval_corpus, spec)
        if train_corpus is None or not need_train:
            return None, evaluation
        self.train_source = train_corpus.source
        train = self._hashed(train_corpus, options.train_split)
        if train_corpus.source is None:
            train = self._without_shared(train, evaluation)
        elif train_corpus.name == eval_corpus.name and train_corpus.shares_rows(options.train_split, spec):
            raise UserError(
                f"splits {options.train_split!r} and {spec!r} of {train_corpus.name!r} share documents: choose others"
            )
        return train, evaluation

    def _corpus(self, name: str, config: str | None = None) -> Corpus:
        self.tell_left_out(name, config)
        return load_corpus(name, config, text_column=self.options.text_column, block_size=self.options.block_size)

    def _hashed(self, corpus: Corpus, spec: str) -> Documents:
        where = f"split {spec!r} of data set {corpus.name!r}"
        documents = hash_documents(corpus.split(spec), where, workers=self.options.num_preprocessing_workers)
        if documents.num_empty:
            self.notes.append(f"left out {plural(documents.num_empty, 'empty document')} of {where}")
        return documents

    def _held_out(self, corpus: Corpus) -> tuple[Documents, Documents]:
        fraction = self.options.eval_fraction
        documents = self._hashed(corpus, self.options.train_split)
        self.train_source = self.eval_source = corpus.source
        if len(set(documents.keys.tolist())) == 1:
            where = f"data set {corpus.name!r}"
            self.notes.append(
                f"{where} is one document: its last {100 * fraction:.4g} % are for evaluation, the rest for training"
            )
            return self._cut(documents, fraction, where)
        train, evaluation = hold_out(documents, fraction)
        self.notes.append(
            f"data set {corpus.name!r} has no evaluation split: held out {plural(len(evaluation), 'document')} of "
            f"{len(documents):,} by content hash"
        )
        return train, evaluation

    def _cut(self, documents: Documents, fraction: float, where: str) -> tuple[Documents, Documents]:
        return cut_by_position(documents, fraction, where)

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


def _evaluation_split(corpus: Corpus, taken: tuple[str, ...]) -> str | None:
    return next((name for name in ("validation", "test") if name in corpus.splits and name not in taken), None)
