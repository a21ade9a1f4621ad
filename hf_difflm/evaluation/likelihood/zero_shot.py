"""Zero-shot likelihood: any text to blocks, on which a model is evaluated as on its own evaluation set.

Documents become blocks as in training, by ``packing``; of text that is not the run's own ``mdlm`` reads empty documents, too,
as the paper does (:mod:`hf_difflm.data.packing.paper_blocks`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ...data import DataOptions, prepare_data
from ...data.caching import cached_map, code_digest
from ...data.collator import IGNORED
from ...data.encoding import DocumentEncoder
from ...data.making import BlockMaker
from ...data.options import LAST, PAPER
from ...data.packing.paper_blocks import DOCUMENTS_AT_ONCE
from ...data.prepared import PreparedData, SideCounts
from ...data.prepared_folder import is_prepared
from ...data.round_trip import round_trip
from ...data.sentences import plural
from ...data.sources.corpora import EMBEDDED, Corpus, load_corpus
from ...data.sources.documents import hash_documents
from ...data.text_ids import TextIds
from ...errors import UserError
from ..targets import Target, data_options
from . import detokenizers
from .evaluation_sets import load_evaluation_split
from .zero_shot_options import ZeroShotOptions, evaluation_set, evaluation_set_names

LONGEST_BLOCK = 1024
"""Tokens in a block for a model without a run log, unless it takes fewer: the context of the MDLM paper."""


def _refuse_trained(target: Target, changes: dict[str, Any], data: PreparedData) -> None:
    """Raise UserError where a share of the text would be held out now that the run has trained on."""
    own = [name for name in ("eval_dataset", "eval_split") if target.config.get(name) is not None]
    if data.held_out and own and "eval_split" in changes:
        raise UserError(
            f"{target.source} held out no {changes['eval_split']} split: its {own[0]} is {target.config[own[0]]}, and it "
            "trained on all of its own text; leave --split out, or name a text with --dataset"
        )


def evaluation_data(
    target: Target, changes: dict[str, Any]
) -> tuple[DataOptions, PreparedData, ZeroShotOptions | None]:
    """Return what a target is evaluated on, see :func:`data_options`, the blocks, and how text it does not know became them.

    The last is None where the data are those of the run.

    The name of an evaluation set stands for its settings, which ``changes`` override. Of a data set that is not the run's own
    and has no evaluation split all text is used, unless ``changes`` have an ``eval_fraction``.

    Args:
        target: the model.
        changes: typed settings that differ from those of the run, among them those of ZeroShotOptions.

    Raises:
        UserError: the data cannot be had or made into blocks.
    """
    name, text = changes.get("dataset"), target.text
    named = evaluation_set(name) if name in evaluation_set_names() else {}
    changes = {**named, **changes}
    how = ZeroShotOptions(**{f.name: changes[f.name] for f in dataclasses.fields(ZeroShotOptions) if f.name in changes})
    if "block_size" not in changes and "block_size" not in target.config:
        limit = getattr(target.model.config, "max_position_embeddings", None)
        changes["block_size"] = min(limit or LONGEST_BLOCK, LONGEST_BLOCK)
    options = data_options(target, changes)
    if name is None or (not named and _is_own(name, target.config)):
        if how != ZeroShotOptions():
            raise UserError("--detokenizer is for a data set that the model was not trained on; add --dataset")
        data = prepare_data(options, target.tokenizer, need_train=False, text=text, tell=False)
        _refuse_trained(target, changes, data)
        return options, data, None
    held = Path(name).exists() or name in EMBEDDED
    options = dataclasses.replace(
        options, sft=False, sft_fill_eos=False, sft_turns=LAST, streaming=options.streaming and not held
    )
    if named or how != ZeroShotOptions() or options.packing == PAPER:
        return options, _ZeroShot(options, target.tokenizer, how, named, _packed(text, options, changes)).run(), how
    read = options
    if options.dataset_config is None and "eval_fraction" not in changes and not is_prepared(name):
        read = dataclasses.replace(options, eval_dataset=name)  # all of it, where there is no evaluation split
    elif is_prepared(name) and text.bos_token_id is None:
        raise UserError(
            f"the blocks of {name} begin with BOS, and the texts of {target.source} do not; add --add-bos, or give the text "
            "itself"
        )
    return options, prepare_data(read, target.tokenizer, need_train=False, text=text, tell=False), how


def _packed(text: TextIds, options: DataOptions, changes: dict[str, Any]) -> TextIds:
    """The convention of blocks: those of the MDLM paper begin with BOS whatever the tokenizer does, and end with EOS."""
    if options.packing == PAPER and text.tokenizer.eos_token_id is None:
        raise UserError("--packing mdlm ends each block with EOS, which the tokenizer lacks; take --packing concat")
    if options.packing != PAPER or text.bos_token_id is not None:
        return text
    if changes.get("add_bos") is False:
        raise UserError("--packing mdlm puts BOS before each block; leave out --no-add-bos, or take --packing concat")
    return dataclasses.replace(text, bos_token_id=text.start())


def _is_own(name: str, config: dict[str, Any]) -> bool:
    """Whether a data set is the one that the run trained on."""
    own = config.get("dataset")
    if own is None or name == own:
        return own is not None
    return Path(name).exists() and Path(own).exists() and Path(name).samefile(own)


class _ZeroShot(BlockMaker):
    """One call of `evaluation_data`: what its steps share."""

    def __init__(
        self, options: DataOptions, tokenizer: Any, how: ZeroShotOptions, named: dict[str, Any], text: TextIds
    ) -> None:
        super().__init__(options, tokenizer, text)
        self.how = how
        self.named = named

    def run(self) -> PreparedData:
        corpus, spec = self._corpus()
        where = f"split {spec!r} of data set {corpus.name!r}"
        rows = corpus.split(spec)
        if self.how.detokenizer is not None:
            rows = self._detokenized(rows, self.how.detokenizer)
        if self.options.packing == PAPER:
            blocks, fingerprint = self._mdlm_blocks(rows, where)
            full = rows.filter(_has_text) if len(rows) else rows
            blocks = self.without_lost_bytes(blocks, round_trip(full, self.encoder, key=fingerprint))
        else:
            documents = hash_documents(rows, where, workers=self.options.num_preprocessing_workers)
            blocks = self.blocks("eval", documents, corpus.source, self.options.max_eval_blocks)
            fingerprint = documents.fingerprint
        parts = [fingerprint, self.encoder.fingerprint, str(self.options.block_size), self.options.packing]
        return PreparedData(
            train=None,
            eval=blocks,
            source_nll=None,
            fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            counts=self.counts,
            block_size=self.options.block_size,
            notes=self.notes,
            round_trip=self.round_trip,
            conventions=self.text.facts,
        )

    def _corpus(self) -> tuple[Corpus, str]:
        options = self.options
        if self.named:
            spec = options.eval_split or self.named["eval_split"]
            split = spec.partition("[")[0]
            rows = load_evaluation_split(
                options.dataset, self.named["dataset"], options.dataset_config, split, options.text_column
            )
            return Corpus(options.dataset, datasets.DatasetDict({split: rows})), spec
        self.tell_left_out(options.dataset, options.dataset_config)
        corpus = load_corpus(
            options.dataset,
            options.dataset_config,
            text_column=options.text_column,
            block_size=options.block_size,
            skip_bad_rows=options.skip_bad_rows,
        )
        self.notes += [corpus.note] if corpus.note else []
        spec = options.eval_split or next((s for s in ("validation", "test") if s in corpus.splits), None)
        if spec is None:
            spec = next(iter(corpus.splits))
            self.notes.append(f"data set {corpus.name!r} has no evaluation split: all of split {spec!r} is scored")
        return corpus, spec

    def _detokenized(self, rows: datasets.Dataset, name: str) -> datasets.Dataset:
        if len(rows) == 0:
            return rows
        return cached_map(
            rows,
            _Detokenize(name),
            kind="detokenized",
            key=[rows._fingerprint, name, code_digest(detokenizers.__file__)],
            features=datasets.Features({"text": datasets.Value("string")}),
            description="Detokenising",
            workers=self.options.num_preprocessing_workers,
        )

    def _mdlm_blocks(self, rows: datasets.Dataset, where: str) -> tuple[datasets.Dataset, str]:
        most, width = self.options.max_eval_blocks, self.options.block_size - 2
        if width < 1:
            raise UserError(
                f"block_size must be at least 3 for a block with BOS and EOS, got {self.options.block_size}"
            )
        digest = hashlib.sha256()
        groups: list[np.ndarray] = []
        dropped = 0
        for texts, start in _some_at_once(rows):
            digest.update(repr([hashlib.sha256(text.encode()).hexdigest() for text in texts]).encode())
            stream_3T = _stream(self.encoder, texts, start, self.tokenizer.eos_token_id)
            num_blocks = stream_3T.shape[1] // width
            dropped += stream_3T.shape[1] - num_blocks * width
            groups.append(stream_3T[:, : num_blocks * width].reshape(3, num_blocks, width))
            if most is not None and sum(group.shape[1] for group in groups) >= most:
                break
        blocks_3NW = np.concatenate(groups, axis=1) if groups else np.zeros((3, 0, width), dtype=np.int32)
        if blocks_3NW.shape[1] == 0:
            raise UserError(
                f"{where} has {dropped:,} tokens, fewer than one block of {self.options.block_size:,} holds ({width:,}): "
                "lower block_size, or give more text"
            )
        if most is not None and blocks_3NW.shape[1] >= most:
            self.notes.append(f"eval: used the first {plural(most, 'block')}")
            blocks_3NW = blocks_3NW[:, :most]
        self.notes.append(
            "packed as in the MDLM paper: EOS after each document and at the end of each block, a thousand documents at once"
        )
        blocks = _as_dataset(blocks_3NW, self.text, self.tokenizer.eos_token_id)
        self.counts["eval"] = SideCounts(
            documents=len(rows),
            blocks=len(blocks),
            tokens=len(blocks) * (width + 1),
            dropped_tokens=dropped,
            num_bytes=int(blocks_3NW[1].sum(dtype=np.int64)),
        )
        return blocks, digest.hexdigest()


def _has_text(row: dict[str, Any]) -> bool:
    return bool(row["text"])


@dataclasses.dataclass(frozen=True)
class _Detokenize:
    name: str

    def __call__(self, table: pa.Table) -> pa.Table:
        return detokenizers.detokenize_table(table, self.name)


def _some_at_once(rows: datasets.Dataset) -> Iterator[tuple[list[str], int]]:
    for start in range(0, len(rows), DOCUMENTS_AT_ONCE):
        texts = rows[start : start + DOCUMENTS_AT_ONCE]["text"]
        yield [text or "" for text in texts], start


def _stream(encoder: DocumentEncoder, texts: list[str], first_document: int, eos_token_id: int) -> np.ndarray:
    """(3, T) int32: ids with EOS after each text, the bytes behind each, the number of its document."""
    columns = []
    for number, (ids_T, bytes_T) in enumerate(encoder.encode(texts), start=first_document):
        ids = np.append(ids_T, eos_token_id)
        columns.append(np.stack([ids, np.append(bytes_T, 0), np.full_like(ids, number)]).astype(np.int32))
    return np.concatenate(columns, axis=1)


def _as_dataset(blocks_3NW: np.ndarray, text: TextIds, eos_token_id: int) -> datasets.Dataset:
    """Blocks between BOS and EOS, with the columns of evaluation blocks; EOS belongs to the document before it."""
    ids_NW, bytes_NW, document_ids_NW = blocks_3NW
    ids_NL = np.pad(ids_NW, ((0, 0), (1, 1)), constant_values=((0, 0), (text.start(), eos_token_id)))
    document_ids_NL = np.pad(document_ids_NW, ((0, 0), (1, 1)), mode="edge")
    document_ids_NL[:, 0] = -1
    return datasets.Dataset.from_dict(
        {
            "input_ids": ids_NL,
            **({"labels": np.where(np.arange(ids_NL.shape[1]) == 0, IGNORED, ids_NL)} if text.needs_labels else {}),
            "num_bytes": bytes_NW.sum(axis=1, dtype=np.int64),
            "document_ids": document_ids_NL,
            "index": np.arange(len(ids_NL)),
        }
    ).with_format("numpy")
