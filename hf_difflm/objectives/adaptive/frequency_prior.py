"""How important a token is by its frequency alone: what it costs a model that knows nothing but frequencies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ...errors import UserError

_ROWS_AT_ONCE = 1000


def count_tokens(
    dataset: Any, vocab_size: int, most_rows: int | None = None, bos_token_id: int | None = None
) -> np.ndarray:
    """(V,) int64, how often each token is scored: what is context in a batch of the :class:`Collator` does not count.

    Args:
        dataset: rows with ``input_ids`` and optionally ``labels`` (-100 at context) and ``attention_mask`` (0 at padding);
            a list, a ``datasets.Dataset`` or a stream.
        vocab_size: V.
        most_rows: rows to read, from the start; None: all of them, which a stream may not end.
        bos_token_id: a row without labels that starts with it has it as context; None: such a row has no context.

    Raises:
        UserError: a token outside the vocabulary.
    """
    counts_V = np.zeros(vocab_size, dtype=np.int64)
    for ids in _pieces(dataset, most_rows, bos_token_id):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise UserError(
                f"the training data has the token {int(ids.max() if ids.min() >= 0 else ids.min())}, outside the model's "
                f"vocabulary of {vocab_size} tokens; use the tokenizer the model was built for"
            )
        counts_V += np.bincount(ids, minlength=vocab_size)
    return counts_V


def _pieces(dataset: Any, most_rows: int | None, bos_token_id: int | None) -> Iterator[np.ndarray]:
    """Yield the scored tokens of a thousand rows at a time."""
    # A set that is read by index alone need not say where it ends but by its length.
    by_index = not hasattr(type(dataset), "__iter__") and hasattr(dataset, "__len__")
    every = (dataset[place] for place in range(len(dataset))) if by_index else iter(dataset)
    rows: Iterable[Any] = itertools.islice(every, most_rows)
    while piece := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        ids = _joined(piece, "input_ids")
        is_context = np.zeros(len(ids), dtype=bool)
        if "attention_mask" in piece[0]:
            is_context = _joined(piece, "attention_mask") == 0
        if "labels" in piece[0]:
            is_context |= _joined(piece, "labels") == -100
        elif bos_token_id is not None and len(ids):
            # The first token of each row that is no padding; an empty row has none.
            rows_T = np.repeat(np.arange(len(piece)), [len(row["input_ids"]) for row in piece])[~is_context]
            first_R = np.flatnonzero(~is_context)[np.unique(rows_T, return_index=True)[1]]
            is_context[first_R[ids[first_R] == bos_token_id]] = True
        yield ids[~is_context]


def _joined(rows: list[Any], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(row[name], dtype=np.int64) for row in rows])


def token_probabilities(counts_V: np.ndarray) -> np.ndarray:
    """(V,) float64 add-one estimate (count + 1) / (all + V); sums to 1."""
    return (counts_V + 1.0) / (counts_V.sum() + len(counts_V))


def frequency_importance(counts_V: np.ndarray) -> np.ndarray:
    """(V,) float64 in [0, 1]: min(1, -log p_v / log V), 1 for a token rarer than a uniform guess, near 0 for a common one.

    That is the cross-entropy of the unigram model in the units of the difficulty that the importance estimator learns
    (masked cross-entropy / log V, clipped), so a mixture of the two mixes like with like.
    """
    return np.clip(-np.log(token_probabilities(counts_V)) / math.log(max(len(counts_V), 2)), 0.0, 1.0)
