"""What a user gives a Trainer to read - data sets, rows, batches - looked at before anything is trained."""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ..data import Collator
from ..data.conversations.formats import format_of
from ..data.conversations.marked_text import TEXT
from ..errors import UserError
from ..objectives.packed_documents import PIECES

_MOST_ROWS = 2000  # of a fingerprint
_OF_PACKED_ROWS = ("position_ids", "cu_seq_lens_q", "seq_idx")
"""By which collators of others, such as transformers' DataCollatorWithFlattening, tell documents of a row apart."""
_UNREAD = {
    "position_ids": "positions are counted from the start of each row; leave the column out",
    "inputs_embeds": "noise is drawn over tokens; give input_ids",
}


def check_training_set(dataset: Any, collator: Callable[[list[Any]], Any]) -> None:
    """Raise UserError where it is several sets, or its first row or the batch made of it is none that can be trained on."""
    if dataset is None:
        return
    if isinstance(dataset, Mapping):
        raise UserError(f"train_dataset is a dict of sets ({_names(dataset)}); give one of them")
    if not (isinstance(dataset, IterableDataset) or hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")):
        raise UserError(f"train_dataset is a {type(dataset).__name__}; give rows by number, or an IterableDataset")
    if isinstance(dataset, Iterator):
        raise UserError(
            f"train_dataset is a {type(dataset).__name__}, which can be read once only; give a list, a data set or an "
            "IterableDataset"
        )
    _check_first_row(dataset, "train_dataset", collator)


def check_evaluation_sets(sets: Any, collator: Callable[[list[Any]], Any], given: str = "eval_dataset") -> None:
    """Raise UserError where an evaluation set, or one of several, is none that can be evaluated."""
    if sets is None:
        return
    for name, dataset in sets.items() if isinstance(sets, Mapping) else [("", sets)]:
        if not isinstance(name, str) or name == "native":
            raise UserError(f"{given} has a set called {name!r}, which is no name for metrics; call it something else")
        called = f"{given}[{name!r}]" if name else given
        _check_first_row(check_evaluation_set(dataset, called), called, collator)


def check_evaluation_set(dataset: Any, name: str) -> Any:
    """Return a set whose rows can be read by number.

    Raises:
        UserError: they cannot, or there are none.
    """
    if isinstance(dataset, Mapping):
        raise UserError(f"{name} is a dict of sets ({_names(dataset)}) within another; give one of them")
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"{name} is a {type(dataset).__name__}, whose rows have no number to draw their noise by; make a list of as many "
            "rows as are to be evaluated"
        )
    if len(dataset) == 0:
        raise UserError(f"{name} has no rows; give some")
    if holds_documents(dataset):
        raise UserError(
            f"the rows of {name} hold several documents each ({PIECES}), which an evaluation reads one by one; give each a "
            "row of its own"
        )
    return dataset


def holds_documents(dataset: Any) -> bool:
    """Whether rows of a training set hold several documents each, which are to be kept apart (``piece_ids``)."""
    if dataset is None or isinstance(dataset, (IterableDataset, Mapping)):
        return False
    if (known := getattr(dataset, "holds_documents", None)) is not None:
        return known
    if getattr(dataset, "is_stream", False) or not (hasattr(dataset, "__getitem__") and len(dataset)):
        return False
    row = dataset[0]
    return isinstance(row, Mapping) and PIECES in row


def refuse_with_documents(arguments: Any) -> None:
    """Raise UserError where settings are of rows that hold one document each."""
    for name, given in (("static_shapes", arguments.static_shapes), ("router_aux_loss", arguments.router_aux_loss)):
        if given:
            raise UserError(
                f"{name} needs rows of one document each, but those of the training set hold several; leave it out, or set "
                "packing to concat"
            )


def fingerprint(dataset: Any) -> str | None:
    """Return what tells a set of rows from others: a digest over their number and up to 2,000 of them, evenly spread.

    Of a row count its ``input_ids`` and ``labels``, so that equal rows in a list and in a ``datasets.Dataset`` have one
    digest, which the set's own ``_fingerprint`` has not.
    None for streams, for no set, and for rows without ``input_ids`` that are numbers.
    """
    if isinstance(dataset, Mapping):
        parts = {str(name): fingerprint(inner) for name, inner in dataset.items()}
        known = [f"{name}={part}" for name, part in sorted(parts.items()) if part is not None]
        return hashlib.sha256("\n".join(known).encode()).hexdigest() if known and len(known) == len(parts) else None
    if isinstance(dataset, IterableDataset) or getattr(dataset, "is_stream", False):
        return None
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        return None
    digest = hashlib.sha256(str(len(dataset)).encode())
    with _random_numbers_kept():  # rows may be drawn
        for place in np.unique(np.linspace(0, len(dataset) - 1, _MOST_ROWS).astype(np.int64)).tolist():
            row = dataset[place]
            if not isinstance(row, Mapping) or "input_ids" not in row:
                return None
            for name in ("input_ids", "labels"):
                if row.get(name) is None:
                    continue
                try:
                    ids = np.asarray(row[name], dtype=np.int64)
                except (TypeError, ValueError):  # no ids of one row on the host: a collator of the user's reads them
                    return None
                digest.update(f"{name} {ids.shape} ".encode() + ids.tobytes())
    return digest.hexdigest()


def check_batch(batch: Any, collator: Any) -> None:
    """Raise UserError where a batch is not made of token ids and labels on the host."""
    name = collator.__name__ if hasattr(collator, "__name__") else type(collator).__name__
    if not isinstance(batch, Mapping):
        raise UserError(
            f"data_collator {name} returns a {type(batch).__name__}; it must return a dict with input_ids and labels"
        )
    for key in _OF_PACKED_ROWS:
        if key in batch:
            raise UserError(
                f"the batches of data_collator {name} have {key}, which is not read, so that documents of a row would see "
                f"each other; say by {PIECES} (a number for each document, -1 at padding) which of them each token is of"
            )
    tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    for key in ("input_ids", "labels"):
        if key not in tensors:
            raise UserError(
                f"the batches of data_collator {name} have no tensor {key!r}, only {_names(tensors) or 'nothing'}; "
                "leave data_collator out (the tokenizer, given as processing_class, then pads and labels rows), or have it "
                "return input_ids and labels, -100 where a token is context"
            )
    check_on_host(batch)


def check_on_host(batch: Mapping[str, Any]) -> None:
    """Raise UserError where a batch is on a device: the noise is drawn on the host, over its tokens."""
    if (device := batch["input_ids"].device).type != "cpu":
        raise UserError(
            f"a batch is on {device}, but its noise is drawn on the host, from where it is moved; have data_collator and "
            "get_train_dataloader leave batches on the CPU"
        )


def _check_first_row(dataset: Any, name: str, collator: Callable[[list[Any]], Any]) -> None:
    if isinstance(dataset, IterableDataset) or getattr(dataset, "is_stream", False):
        return
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or len(dataset) == 0:
        return
    row = dataset[0]
    if isinstance(collator, Collator):
        if not isinstance(row, Mapping) or "input_ids" not in row:
            raise UserError(f"the rows of {name} have no input_ids, {_to_tokenise(row)}")
        for key, advice in _UNREAD.items():
            if key in row:
                raise UserError(f"the rows of {name} have {key}, which are not read: {advice}")
        return
    with _random_numbers_kept():
        check_batch(collator([copy.copy(row)]), collator)


def _to_tokenise(row: Any) -> str:
    """What a row without ids has, and what makes ids of it."""
    if not isinstance(row, Mapping):
        return f"each is a {type(row).__name__}; give dicts with input_ids"
    found = format_of(column for column, value in row.items() if value is not None and column != TEXT)
    if found is not None:
        return (
            f"only {_names(row)}, which is a conversation ({found.name}); write the rows to a .jsonl file, or with "
            "save_to_disk, and take train and eval of prepare_data(DataOptions(dataset=PATH, sft=True), tokenizer)"
        )
    return f"only {_names(row)}; tokenise them first, as by dataset.map(lambda row: tokenizer(row['text']))"


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Whatever a collator draws inside the block is drawn again after it."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _names(mapping: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, mapping))
