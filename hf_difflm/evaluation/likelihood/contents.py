"""What each unit of an evaluation set is, as digests: its text, its scored tokens, and what they were read in.

Two evaluations may be compared unit by unit where all three are the same. Only the text can be the same for two tokenizers.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

_ROWS_AT_ONCE = 256
_DIGITS = 16
_CUT_CHARACTERS = 8
"""Bytes by which a row that begins and ends within characters may come back longer or shorter."""


@dataclass(frozen=True)
class UnitContents:
    """Digests by unit, of shape (U,), in the order of ``ids``.

    Attributes:
        ids: of the units: numbers of documents, or of rows.
        text: of the scored text, special tokens left out; empty without a tokenizer.
        tokens: of the ids of the scored tokens, in order.
        context: of all tokens of the rows that hold them, and of where in these rows they stand.
        num_bytes: UTF-8 bytes of the scored text; empty without a tokenizer.
    """

    ids: list[int]
    text: list[str]
    tokens: list[str]
    context: list[str]
    num_bytes: list[int]

    def of(self, ids: Iterable[int]) -> dict[str, list[Any]]:
        """Return the digests of these units, by name, as they are kept beside their numbers."""
        place = {unit: row for row, unit in enumerate(self.ids)}
        rows = [place[int(unit)] for unit in ids]
        columns: dict[str, list[Any]] = {
            "text": self.text,
            "tokens": self.tokens,
            "context": self.context,
            "num_bytes": self.num_bytes,
        }
        return {name: [column[row] for row in rows] for name, column in columns.items() if column}


def unit_contents(dataset: Any, collator: Callable[[list[Any]], Any], data_unit: str, tokenizer: Any) -> UnitContents:
    """Return what the units of an evaluation set are, in one pass over it.

    Args:
        dataset: rows by number, all of them, whatever the number of processes.
        collator: as in the evaluation; makes ``input_ids``, ``labels`` and, for documents, ``document_ids``, all (B, L).
        data_unit: "documents" or "blocks".
        tokenizer: gives the text back; None where there is none.
    """
    ids: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    context: defaultdict[int, Any] = defaultdict(hashlib.sha256)
    for number, row in enumerate(_rows(dataset, collator)):
        ids_L, scored_L = row["input_ids"], row["labels"] != -100
        units_L = np.full(len(ids_L), number)
        if data_unit == "documents" and "document_ids" in row:
            units_L = row["document_ids"]
        whole = ids_L.astype("<i8").tobytes()
        for unit in np.unique(units_L[scored_L]).tolist():
            mine_L = scored_L & (units_L == unit)
            ids[unit].append(ids_L[mine_L])
            context[unit].update(whole)
            context[unit].update(np.flatnonzero(mine_L).astype("<i8").tobytes())
    units = sorted(ids)
    tokens = [np.concatenate(ids[unit]) for unit in units]
    texts = [] if tokenizer is None else [_decode(tokenizer, each) for each in tokens]
    return UnitContents(
        ids=units,
        text=[_digest(text) for text in texts],
        tokens=[_digest(each.astype("<i8").tobytes()) for each in tokens],
        context=[context[unit].hexdigest()[:_DIGITS] for unit in units],
        num_bytes=[len(text) for text in texts],
    )


def lost_bytes(dataset: Any, collator: Callable[[list[Any]], Any], tokenizer: Any) -> str:
    """Return why the ``num_bytes`` of rows cannot be those of the text that they score, as a sentence; else nothing.

    Some rows are decoded: none of their scored tokens may be the unknown one, and the bytes must be as many. What is as
    long as the text and another (lower case) is not seen: of that only :mod:`hf_difflm.data.round_trip`, which has the
    text, can tell.
    """
    places = sorted({len(dataset) * place // _ROWS_AT_ONCE for place in range(_ROWS_AT_ONCE)})
    told = given_back = away = unknown = 0
    for row in _rows([dataset[place] for place in places], collator):
        ids_T = row["input_ids"][row["labels"] != -100]
        found = len(_decode(tokenizer, ids_T))
        unknown += int((ids_T == tokenizer.unk_token_id).sum()) if tokenizer.unk_token_id is not None else 0
        told, given_back, away = (
            told + int(row["num_bytes"]),
            given_back + found,
            away + abs(int(row["num_bytes"]) - found),
        )
    if not unknown and away <= _CUT_CHARACTERS * len(places):
        return ""
    return (
        f"num_bytes says {told:,} bytes where the tokens of {len(places):,} rows give back {given_back:,} ({unknown:,} "
        "tokens are unknown), so that they have no bits per byte; leave num_bytes out, or count the bytes of what is scored"
    )


def _rows(dataset: Any, collator: Callable[[list[Any]], Any]) -> Iterator[dict[str, np.ndarray]]:
    """Yield each row as the model reads it, without pads."""
    size = len(dataset)
    for start in range(0, size, _ROWS_AT_ONCE):
        places = range(start, min(start + _ROWS_AT_ONCE, size))
        rows = dataset.select(places) if hasattr(dataset, "select") else [dataset[place] for place in places]
        batch = {name: tensor.numpy() for name, tensor in collator(list(rows)).items()}
        for row in range(len(places)):
            real_L = batch["attention_mask"][row] != 0 if "attention_mask" in batch else slice(None)
            names = [name for name in ("input_ids", "labels", "document_ids") if name in batch]
            found = {name: batch[name][row][real_L] for name in names}
            yield found | ({"num_bytes": batch["num_bytes"][row]} if "num_bytes" in batch else {})


def _decode(tokenizer: Any, ids_T: np.ndarray) -> bytes:
    text = tokenizer.decode(ids_T.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text.encode("utf-8", "replace")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]
