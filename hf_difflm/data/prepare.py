"""From options to blocks: the whole way of the data, for training and for evaluation."""

from __future__ import annotations

import hashlib
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import datasets
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .corpora import Corpus, load_corpus
from .documents import Documents, cut_by_position, drop_shared, hash_documents, hold_out
from .encoding import DocumentEncoder, encode_documents
from .markov import MarkovSource, markov_states
from .options import DataOptions
from .packing import Packer, pack_documents
from .sentences import plural


@dataclass(frozen=True)
class SideCounts:
    """How much text one side has; tokens are scored tokens (every block also has its BOS).

    Attributes:
        documents: non-empty documents.
        blocks: blocks used, ``tokens`` in them, which stand for ``num_bytes`` bytes of UTF-8.
        dropped_tokens: tokens at the end that did not fill a block.
    """

    documents: int
    blocks: int
    tokens: int
    dropped_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class PreparedData:
    """What a run reads.

    Attributes:
        train: blocks with ``input_ids`` (block_size,) and ``num_bytes``; None if training data was not asked for.
        eval: the same, with ``document_ids`` (block_size,), -1 at BOS, and ``index``, the row's number.
        source_nll: nats per scored token of the very evaluation blocks under the source that made them, which no
            model can beat but by chance; None where the source is not known.
        fingerprint: SHA-256 of the documents of both sides, the tokenizer and the block size.
        counts: by side, ``train`` and ``eval``.
        block_size: tokens in a block, BOS included.
        notes: sentences on what was decided on the way.
    """

    train: datasets.Dataset | None
    eval: datasets.Dataset
    source_nll: float | None
    fingerprint: str
    counts: dict[str, SideCounts]
    block_size: int
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return a line for each side and each note, for the terminal."""
        lines = [
            f"{side}: {plural(count.documents, 'document')}, {plural(count.blocks, 'block')} of {self.block_size:,} "
            f"tokens, {count.tokens:,} scored tokens, {count.num_bytes:,} bytes"
            + (f" ({plural(count.dropped_tokens, 'token')} dropped at the end)" if count.dropped_tokens else "")
            for side, count in self.counts.items()
        ]
        if self.source_nll is not None:
            lines.append(f"the source itself has {self.source_nll:.4f} nats per token on the evaluation blocks")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def prepare_data(options: DataOptions, tokenizer: PreTrainedTokenizerBase, *, need_train: bool = True) -> PreparedData:
    """Load the documents, keep training and evaluation apart, tokenise and pack; cached by `datasets`.

    The evaluation documents are, the first of these that applies: those of ``eval_dataset``; of ``eval_split``; of
    the data set's validation or test split; a share held out by content hash; the end of the text, if it is one
    document. A training document that is also an evaluation document is dropped (not for synthetic text, where equal
    documents are independent draws). ``max_train_blocks``, ``max_chunks`` and ``max_eval_blocks`` keep the first blocks.

    Under several processes the first of each machine prepares while the others wait, then find its cache files; build
    the TrainingArguments before, since they decide the device and with it the backend the processes talk over.

    Args:
        options: see `DataOptions`; ``options.tokenizer`` is not read.
        tokenizer: as from `load_tokenizer`.
        need_train: whether to make training blocks at all.

    Raises:
        UserError: for whatever is wrong with the data.
    """
    if options.block_size < 2:
        raise UserError(
            f"block_size is {options.block_size}: a block needs BOS and at least one token, so give 2 or more"
        )
    if not 0 < options.eval_fraction < 1:
        raise UserError(f"eval_fraction is {options.eval_fraction:g}: give a share above 0 and below 1")
    with _first_local_process_goes_first():
        return _Preparation(options, tokenizer).run(need_train)


def _first_local_process_goes_first() -> AbstractContextManager[None]:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return nullcontext()
    from accelerate import PartialState

    return PartialState().local_main_process_first()


class _Preparation:
    """One call of `prepare_data`: what its steps share."""

    def __init__(self, options: DataOptions, tokenizer: PreTrainedTokenizerBase) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.encoder = DocumentEncoder(tokenizer)
        self.notes: list[str] = []
        self.counts: dict[str, SideCounts] = {}
        self.eval_source: MarkovSource | None = None
        self.train_source: MarkovSource | None = None

    def run(self, need_train: bool) -> PreparedData:
        train_documents, eval_documents = self._documents(need_train)
        train = None
        if train_documents is not None:
            train = self._blocks("train", train_documents, self.train_source, self._most_train_blocks())
        evaluation = self._blocks("eval", eval_documents, self.eval_source, self.options.max_eval_blocks)
        parts = [train_documents.fingerprint if train_documents else "", eval_documents.fingerprint]
        parts += [self.encoder.fingerprint, str(self.options.block_size)]
        return PreparedData(
            train=train,
            eval=evaluation,
            source_nll=self._source_nll(eval_documents, len(evaluation)),
            fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            counts=self.counts,
            block_size=self.options.block_size,
            notes=self.notes,
        )

    def _most_train_blocks(self) -> int | None:
        """How many blocks ``max_train_blocks`` and ``max_chunks`` leave; None for all."""
        limits = [] if self.options.max_train_blocks is None else [self.options.max_train_blocks]
        if self.options.max_chunks is not None:
            limits.append(max(self.options.max_chunks * self.options.tokens_per_chunk // self.options.block_size, 1))
        return min(limits, default=None)

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
            return cut_by_position(documents, fraction, where)
        train, evaluation = hold_out(documents, fraction)
        self.notes.append(
            f"data set {corpus.name!r} has no evaluation split: held out {plural(len(evaluation), 'document')} of "
            f"{len(documents):,} by content hash"
        )
        return train, evaluation

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

    # Blocks.

    def _blocks(
        self, side: str, documents: Documents, source: MarkovSource | None, most: int | None
    ) -> datasets.Dataset:
        where = {"train": "the training text", "eval": "the evaluation text"}[side]
        encoded = encode_documents(documents, self.encoder, workers=self.options.num_preprocessing_workers)
        if source is not None:
            self._check_one_token_per_letter(encoded)
        packer = Packer(
            block_size=self.options.block_size,
            bos_token_id=self.tokenizer.bos_token_id,
            # Documents of a synthetic source are one block each and stand alone.
            eos_token_id=self.tokenizer.eos_token_id if source is None else None,
            with_document_ids=side == "eval",
        )
        key = [documents.fingerprint, self.encoder.fingerprint]
        blocks, dropped = pack_documents(encoded, packer, key=key, where=where)
        if most is not None and most < len(blocks):
            self.notes.append(f"{side}: used the first {most:,} of {plural(len(blocks), 'block')}")
            blocks = blocks.select(range(most))
        self.counts[side] = SideCounts(
            documents=len(documents),
            blocks=len(blocks),
            tokens=len(blocks) * (self.options.block_size - 1),
            dropped_tokens=dropped,
            num_bytes=int(sum(blocks.with_format("numpy")["num_bytes"][:])),
        )
        return blocks.with_format("numpy")

    def _check_one_token_per_letter(self, encoded: datasets.Dataset) -> None:
        width = self.options.block_size - 1
        if any(len(ids) != width for ids in encoded.data.column("input_ids").to_pylist()):
            raise UserError(
                "the data set markov needs a tokenizer that makes one token of each letter, so that a document is a "
                "block: set tokenizer to bytes"
            )

    def _source_nll(self, documents: Documents, num_blocks: int) -> float | None:
        if self.eval_source is None:
            return None
        states = markov_states(documents.dataset[:num_blocks]["text"])
        return float(self.eval_source.sequence_nll(states).sum() / states.size)


def _evaluation_split(corpus: Corpus, taken: tuple[str, ...]) -> str | None:
    return next((name for name in ("validation", "test") if name in corpus.splits and name not in taken), None)
