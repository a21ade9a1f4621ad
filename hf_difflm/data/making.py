"""Documents that are held to blocks that are held: tokenised, packed, counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .encoding import DocumentEncoder, encode_documents
from .options import APART, CONCAT, PAPER, DataOptions
from .packing.blocks import Packer, pack_documents
from .packing.paper_blocks import PaperPacker
from .packing.pieces import PiecePacker, cut_documents
from .packing.rows import PackedRows, lengths_of, rows_of
from .prepared import RowCounts, SideCounts
from .round_trip import RoundTrip, round_trip
from .sentences import plural
from .sources.documents import Documents
from .sources.folders import left_out
from .sources.markov import MarkovSource
from .text_ids import TextIds

_Train = TypeVar("_Train")
_Eval = TypeVar("_Eval")


def total_bytes(blocks: datasets.Dataset) -> int | None:
    """Return the bytes of text behind some blocks; None where they are not known."""
    if "num_bytes" not in blocks.column_names:
        return None
    return int(sum(blocks.with_format("numpy")["num_bytes"][:]))


class BlockMaker:
    """What all ways from options to blocks share: the encoder, and what there is to say in the end."""

    def __init__(self, options: DataOptions, tokenizer: PreTrainedTokenizerBase, text: TextIds | None = None) -> None:
        self.options = options
        self.tokenizer = tokenizer
        self.text = text or TextIds.of(tokenizer, trained_here=True)
        self.encoder = DocumentEncoder(tokenizer)
        self.holds_out = False  # a share of the text for evaluation, where it has no split for that
        self.notes: list[str] = []
        self.counts: dict[str, SideCounts] = {}
        self.round_trip: dict[str, Any] = {}

    @property
    def packed_otherwise(self) -> list[str]:
        """What a fingerprint has of packing, where that is not what it was before there was another."""
        return [] if self.options.packing == CONCAT else [self.options.packing]

    def tell_left_out(self, name: str, config: str | None = None) -> None:
        """Note which files are no text, where ``name`` is a folder of them."""
        if config is None and (what := left_out(Path(name).expanduser())):
            self.notes.append(what)

    def blocks(self, side: str, documents: Documents, source: MarkovSource | None, most: int | None) -> Any:
        """Return the blocks of ``side``, train, eval or test, at most ``most``; counts them.

        Where documents are kept apart, those of the training are rows of several, of the others rows of one.
        """
        where = {"train": "the training text", "eval": "the evaluation text", "test": "the test text"}[side]
        encoded = encode_documents(documents, self.encoder, workers=self.options.num_preprocessing_workers)
        if source is not None:
            self._check_one_token_per_letter(encoded)
        # Documents of a synthetic source are one block each and stand alone.
        eos_token_id = self.tokenizer.eos_token_id if source is None else None
        key = [documents.fingerprint, self.encoder.fingerprint]
        if self.options.packing in APART:
            first = self.text.start() if self.text.bos_token_id is None else self.text.bos_token_id
            packer = PiecePacker(self.options.block_size, first, eos_token_id, self.text.needs_labels)
            pieces = cut_documents(encoded, packer, key=key)
            if side != "train":
                pieces = self._without_lost(pieces, documents, side)
            return self.rows(side, pieces, most, documents=len(documents))
        blocks, dropped = pack_documents(encoded, self._packer(side, eos_token_id), key=key, where=where)
        if most is not None and most < len(blocks):
            whole, blocks = plural(len(blocks), "block"), blocks.select(range(most))
            every = plural(len(documents), "document")
            of = "" if side == "train" else f", which are of {_documents_of(blocks):,} of {every}"
            self.notes.append(f"{side}: used the first {most:,} of {whole}{of}")
        if side != "train":
            blocks = self._without_lost(blocks, documents, side)
        self.counts[side] = SideCounts(
            documents=len(documents),
            blocks=len(blocks),
            tokens=len(blocks) * (self.options.block_size - 1),
            dropped_tokens=dropped,
            num_bytes=total_bytes(blocks),
        )
        return blocks.with_format("numpy")

    def _packer(self, side: str, eos_token_id: int | None) -> Packer:
        begins = self.text.bos_token_id
        if self.options.packing == PAPER:
            if eos_token_id is None:
                raise UserError(
                    "packing mdlm ends each document and each block with EOS, and there is none here; set packing to concat"
                )
            begins = self.text.start() if begins is None else begins
        return (PaperPacker if self.options.packing == PAPER else Packer)(
            block_size=self.options.block_size,
            bos_token_id=begins,
            eos_token_id=eos_token_id,
            with_document_ids=side != "train",
            start_token_id=self.text.start() if begins is None else None,
            with_labels=self.text.needs_labels,
        )

    def _without_lost(self, blocks: datasets.Dataset, documents: Documents, side: str) -> datasets.Dataset:
        workers = self.options.num_preprocessing_workers
        trip = round_trip(documents.dataset, self.encoder, key=documents.fingerprint, workers=workers)
        return self.without_lost_bytes(blocks, trip, side)

    def packed(self, pieces: datasets.Dataset, most: int | None, what: str) -> PackedRows:
        """Return rows of several pieces each, the first ``most`` of them; notes that there are more."""
        found = rows_of(lengths_of(pieces), self.options.block_size, self.options.packing)
        if most is not None and most < len(found):
            self.notes.append(f"train: used the first {most:,} of {plural(len(found), 'row')} of {what}")
        return PackedRows(pieces, found[:most])

    def rows(self, side: str, pieces: datasets.Dataset, most: int | None, **counts: Any) -> Any:
        """Return rows of several pieces to train on, at most ``most``, and of one each to evaluate; counts them.

        Evaluations read as many pieces, in their order, as ``most`` rows have room for.
        """
        size, lengths_P = self.options.block_size, lengths_of(pieces)
        total = plural(len(pieces), "piece")
        if side == "train":
            rows: Any = self.packed(pieces, most, "documents")
            lengths_P = lengths_P[rows.numbers]
            num_rows, room = len(rows), len(rows) * size
        else:
            rows = pieces
            if most is not None and lengths_P.sum() > most * size:
                kept = max(int(np.searchsorted(lengths_P.cumsum(), most * size, side="right")), 1)
                self.notes.append(
                    f"{side}: used the first {kept:,} of {total} of documents, which {most:,} rows have room for"
                )
                rows, lengths_P = pieces.select(range(kept)), lengths_P[:kept]
            rows = rows.with_format("numpy")
            num_rows, room = len(lengths_P), int(lengths_P.sum())
        self.counts[side] = RowCounts(
            blocks=num_rows,
            tokens=int(lengths_P.sum()) - len(lengths_P),
            dropped_tokens=0,
            num_bytes=None if side == "train" else total_bytes(rows),
            pieces=len(lengths_P),
            padding_share=1 - float(lengths_P.sum()) / room,
            **counts,
        )
        return rows

    def with_test(
        self, find: Callable[[], tuple[_Train, _Eval, Documents | None]]
    ) -> tuple[_Train, _Eval, Documents | None, datasets.Dataset | None]:
        """Return what ``find`` does, and the blocks of the test that is its last; found anew where that is too little."""
        train, evaluation, tested = find()
        test = self._test_blocks(tested)
        if tested is not None and test is None:
            self._without_test()
            train, evaluation, tested = find()
        return train, evaluation, tested, test

    def _test_blocks(self, documents: Documents | None) -> datasets.Dataset | None:
        """Return the blocks of the documents that are held out for the test; None where there are not enough of them."""
        if documents is None or len(documents) == 0:
            return None
        try:
            return self.blocks("test", documents, None, self.options.max_eval_blocks)
        except UserError:
            return None

    def _without_test(self) -> None:
        """From here on hold nothing out for the test: what would be is too little; note that."""
        self.options = replace(self.options, test_fraction=0.0)
        self.notes = ["too little text to hold out a test beside the evaluation: it is trained on"]

    def without_lost_bytes(self, blocks: datasets.Dataset, trip: RoundTrip, side: str = "eval") -> datasets.Dataset:
        """Return evaluation blocks, without ``num_bytes`` where the tokenizer does not give their text back; note that."""
        if side == "eval":
            self.round_trip = trip.facts()
        if not trip.changed:
            return blocks
        if side == "eval":
            self.notes.append(trip.sentence())
        return blocks.remove_columns("num_bytes")

    def _check_one_token_per_letter(self, encoded: datasets.Dataset) -> None:
        width = self.options.block_size - 1
        if any(len(ids) != width for ids in encoded.data.column("input_ids").to_pylist()):
            raise UserError(
                "the data set markov needs a tokenizer that makes one token of each letter, so that a document is a "
                "block: set tokenizer to bytes"
            )


def _documents_of(blocks: datasets.Dataset) -> int:
    """How many documents some blocks are of, by their ``document_ids``."""
    found = [np.unique(row) for row in blocks.with_format("numpy")["document_ids"]]
    return int((np.unique(np.concatenate(found)) >= 0).sum()) if found else 0  # BOS is of none
