from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.data import Collator, load_tokenizer
from hf_difflm.errors import UserError

TOKENIZER = load_tokenizer("bytes")
BOS, PAD = TOKENIZER.bos_token_id, TOKENIZER.pad_token_id


def test_packed_rows_are_stacked_with_every_token_but_bos_scored() -> None:
    row = {"input_ids": np.array([BOS, 1, 2]), "num_bytes": 2, "document_ids": np.array([-1, 0, 0]), "index": 7}
    batch = Collator(TOKENIZER)([row, row])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[BOS, 1, 2]] * 2,
        "attention_mask": [[1, 1, 1]] * 2,
        "labels": [[-100, 1, 2]] * 2,
        "document_ids": [[-1, 0, 0]] * 2,
        "num_bytes": [2, 2],
        "index": [7, 7],
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


@given(st.lists(st.lists(st.integers(0, 259), min_size=1, max_size=6), min_size=1, max_size=4), st.booleans())
def test_padding_changes_neither_what_is_scored_nor_what_is_attended(rows: list[list[int]], left: bool) -> None:
    collator = Collator(TOKENIZER, padding_side="left" if left else "right")
    collator.pad_token_id = TOKENIZER.eos_token_id  # as GPT-2: the mask must not come from ids
    batch = collator([{"input_ids": ids} for ids in rows])
    for ids, padded, mask, labels in zip(
        rows, *(batch[k] for k in ("input_ids", "attention_mask", "labels")), strict=True
    ):
        assert padded[mask == 1].tolist() == ids
        assert labels[mask == 1].tolist() == [-100 if ids[0] == BOS else ids[0], *ids[1:]]
        assert (labels[mask == 0] == -100).all()
        assert mask.tolist() == sorted(mask.tolist(), reverse=not left)


def test_rows_keep_their_own_labels_and_masks() -> None:
    own = [
        {"input_ids": [PAD, BOS, 1, 2], "attention_mask": [0, 1, 1, 1], "labels": [5, -100, -100, 2]},
        {"input_ids": [BOS, 3], "attention_mask": [1, 1], "labels": [-100, 3]},
    ]
    batch = Collator(TOKENIZER)(own)
    assert batch["labels"].tolist() == [[-100, -100, -100, 2], [-100, 3, -100, -100]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 0, 0]]


def test_bos_behind_pads_of_the_row_itself_is_context() -> None:
    batch = Collator(TOKENIZER)([{"input_ids": [PAD, BOS, 1], "attention_mask": [0, 1, 1]}])
    assert batch["labels"].tolist() == [[-100, -100, 1]]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"input_ids": [1]}, {"input_ids": []}], "row 1 of the batch has no tokens"),
        ([{"input_ids": [1, 2], "labels": [1]}], "has 1 labels for 2 input_ids"),
    ],
)
def test_rows_that_make_no_sense_are_refused(rows: list[dict[str, list[int]]], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Collator(TOKENIZER)(rows)


def test_unknown_padding_side_is_refused() -> None:
    with pytest.raises(UserError, match="'middle'"):
        Collator(TOKENIZER, padding_side="middle")
