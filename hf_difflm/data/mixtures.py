"""Several data sets as one, each with its share of the training tokens."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import reduce
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .making import total_bytes
from .options import DataOptions, mixture_of
from .prepare_held import Preparation
from .prepare_stream import StreamPreparation
from .prepared import PreparedData, SideCounts
from .prepared_folder import is_prepared
from .sources.documents import Documents, drop_shared
from .streaming import LeftOut
from .streaming.mixed_blocks import MixedBlockStream, aligned_window, blocks_of


def prepare_mixture(options: DataOptions, tokenizer: PreTrainedTokenizerBase, need_train: bool) -> PreparedData:
    """Return the blocks of a mixture, see :func:`~hf_difflm.data.options.mixture_of`; documents of two sets share no block.

    Held, an epoch ends where the first of the data sets does: the first blocks of each, as many as its share is. A stream
    reads on, and begins a data set that ends again. Evaluation and test blocks are those of all sets one after the other,
    of each as many as its share of ``max_eval_blocks`` is; what one set evaluates on no other trains on.

    Raises:
        UserError: for whatever is wrong with the data, or with their being mixed.
    """
    counts = mixture_of(options.dataset)
    _refuse(options, list(counts))
    total = sum(counts.values())
    shares = {name: count / total for name, count in counts.items()}
    makers = []
    for name, share in shares.items():
        limit = None if options.max_eval_blocks is None else max(round(share * options.max_eval_blocks), 1)
        part = replace(options, dataset=name, max_eval_blocks=limit, max_train_blocks=None, max_chunks=None)
        makers.append((StreamPreparation if options.streaming else Preparation)(part, tokenizer))
    # Of what is left out of the training a held set gives documents, a stream a LeftOut.
    sides: list[tuple[Any, Any, Any, Any]] = [maker.sides(need_train) for maker in makers]
    if options.eval_dataset is not None:  # one for all
        sides = [
            (train, evaluation if place == 0 else None, None, left)
            for place, (train, evaluation, _, left) in enumerate(sides)
        ]
    evaluation = _joined([blocks for _, blocks, _, _ in sides if blocks is not None])
    tests = [blocks for _, _, blocks, _ in sides if blocks is not None]
    test = _joined(tests) if tests and len(tests) == len(sides) else None
    train: Any = None
    if need_train and options.streaming:
        train = _mixed_stream(options, makers, counts, [left for *_, left in sides])
    elif need_train:
        train = _mixed_blocks(options, makers, counts, [(part, left) for part, *_, left in sides])
    found = {"eval": _counts(evaluation, options), **({} if test is None else {"test": _counts(test, options)})}
    if train is not None and not (options.streaming and train.num_blocks is None):
        found = {"train": _counts(train, options), **found}
    parts = [str(counts), *(maker.encoder.fingerprint for maker in makers[:1]), str(options.block_size)]
    parts += [hashlib.sha256(np.asarray(evaluation["input_ids"]).tobytes()).hexdigest()]
    parts += [] if train is None else [train.fingerprint if options.streaming else train._fingerprint]
    lossy = next((maker.round_trip for maker in makers if maker.round_trip), {})
    return PreparedData(
        train=train,
        eval=evaluation,
        source_nll=None,
        fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        counts=found,
        block_size=options.block_size,
        notes=list(dict.fromkeys(note for maker in makers for note in maker.notes)),
        round_trip=lossy,
        test=test,
        mixture=shares,
        conventions=makers[0].text.facts,
        held_out=any(maker.holds_out for maker in makers),
    )


def _refuse(options: DataOptions, names: list[str]) -> None:
    if options.sft:
        raise UserError("conversations are not mixed by shares; leave out sft, or put their files into one folder")
    if options.dataset_config is not None:
        raise UserError(f"dataset_config is of one data set, and {options.dataset!r} is several; leave it out")
    for name in names:
        if name == "markov":
            raise UserError("data set markov stands alone, since its likelihood is known; leave it out of the mixture")
        if is_prepared(name):
            raise UserError(f"{name} holds prepared blocks, which are not mixed; give the data set they were made from")


def _mixed_blocks(
    options: DataOptions, makers: list[Any], counts: dict[str, int], sides: list[tuple[Documents, list[Documents]]]
) -> datasets.Dataset:
    held = []
    for place, (maker, (documents, _)) in enumerate(zip(makers, sides, strict=True)):
        others = [one for other, (_, left) in enumerate(sides) if other != place for one in left]
        documents = reduce(drop_shared, others, documents)
        if len(documents) == 0:
            raise UserError(f"every document of {maker.options.dataset} is evaluated on by another set of the mixture")
        held.append(maker.blocks("train", documents, None, None))
    total = sum(counts.values())
    most = min(len(blocks) * total // count for blocks, count in zip(held, counts.values(), strict=True))
    limit = options.most_train_blocks()
    size = most if limit is None else min(limit, most)
    kept = [blocks_of(place, list(counts.values()), size) for place in range(len(held))]
    used = [blocks.select(range(min(count, len(blocks)))) for blocks, count in zip(held, kept, strict=True)]
    makers[0].notes += [
        f"an epoch has {len(part):,} of {len(whole):,} training blocks of {name}"
        for name, part, whole in zip(counts, used, held, strict=True)
    ]
    return datasets.concatenate_datasets(used).with_format("numpy")


def _mixed_stream(
    options: DataOptions, makers: list[Any], counts: dict[str, int], left_out: list[LeftOut]
) -> MixedBlockStream:
    numbers = list(counts.values())
    window = aligned_window(options.shuffle_window, sum(numbers))
    size = options.most_train_blocks()
    shares = {(left.fraction, left.beyond) for left in left_out}
    keys: frozenset[int] = frozenset().union(*(left.keys for left in left_out))
    together = LeftOut(max(fraction for fraction, _ in shares), keys)
    streams = []
    for place, (maker, count) in enumerate(zip(makers, numbers, strict=True)):
        maker.options = replace(
            maker.options,
            shuffle_window=window // sum(numbers) * count,
            max_train_blocks=None if size is None else max(blocks_of(place, numbers, size), 1),
        )
        streams.append(maker.stream(together))
    return MixedBlockStream(streams, numbers, window, size)


def _joined(parts: list[Any]) -> datasets.Dataset:
    """Evaluation blocks of several sets, their documents and rows numbered anew."""
    documents = rows = 0
    found = []
    columns = set.intersection(*(set(part.column_names) for part in parts))
    for part in parts:
        ids = np.asarray(part["document_ids"])
        numbered = part.remove_columns([name for name in part.column_names if name not in columns])
        numbered = numbered.map(
            _Shift(documents, rows), batched=True, new_fingerprint=f"{part._fingerprint[:24]}{documents:x}-{rows:x}"
        )
        documents, rows = documents + int(ids.max()) + 1, rows + len(part)
        found.append(numbered)
    return datasets.concatenate_datasets(found).with_format("numpy")


class _Shift:
    """Adds to the numbers of documents and rows."""

    def __init__(self, documents: int, rows: int) -> None:
        self.documents = documents
        self.rows = rows

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        ids = np.asarray(batch["document_ids"])
        shifted = np.where(ids < 0, ids, ids + self.documents).astype(np.int32)
        return {"document_ids": list(shifted), "index": np.asarray(batch["index"]) + self.rows}


def _counts(blocks: Any, options: DataOptions) -> SideCounts:
    num_bytes = None if getattr(blocks, "is_stream", False) else total_bytes(blocks)
    return SideCounts(None, len(blocks), len(blocks) * (options.block_size - 1), 0, num_bytes)
