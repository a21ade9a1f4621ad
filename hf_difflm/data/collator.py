"""Rows to tensors. It knows nothing of objectives: both get the same scored tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .text_ids import pad_id

IGNORED = -100  # the label of a position without loss, as in torch's cross-entropy


class Collator:
    """Stacks and pads rows into a batch of CPU tensors.

    Rows hold ``input_ids`` and may hold ``attention_mask`` (zeros: pads), ``labels``, ``document_ids``, ``piece_ids``,
    ``num_bytes`` and ``index``, alike in all rows; further keys are left out, as ``token_type_ids`` of zeros are.

    A batch of B rows, the longest of L tokens, is:
        input_ids (B, L) int64, padded with the tokenizer's pad token, or what it has instead.
        attention_mask (B, L) int64, 0 at pads. It comes from lengths, never from ids: pad and EOS may be one token.
        labels (B, L) int64: the row's own, or the ids, with -100 at a BOS that starts the row; -100 at pads.
        document_ids and piece_ids (B, L) int64, -1 at pads; num_bytes and index (B,) int64; each if the rows have it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, padding_side: str = "right") -> None:
        if padding_side not in ("right", "left"):
            raise UserError(f"padding_side is {padding_side!r}: choose right or left")
        self.pad_token_id = pad_id(tokenizer)
        self.bos_token_id = tokenizer.bos_token_id
        self.padding_side = padding_side

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows, see the class.

        Raises:
            UserError: a row is empty, its columns differ in length, or its ``token_type_ids`` tell parts of it apart.
        """
        lengths = np.array([len(row["input_ids"]) for row in rows])
        if lengths.min() == 0:
            raise UserError(
                f"row {int(lengths.argmin())} of the batch has no tokens: leave empty rows out of the data set"
            )
        if "token_type_ids" in rows[0] and any(np.asarray(row["token_type_ids"]).any() for row in rows):
            raise UserError(
                "token_type_ids tell the parts of a row apart (they are not all 0), but no model here reads them; leave the "
                "column out, or tokenise the parts as one text"
            )
        input_ids = self._pad(rows, "input_ids", lengths, self.pad_token_id)
        attention_mask = self._attention_mask(rows, lengths)
        if "labels" in rows[0]:
            labels = self._pad(rows, "labels", lengths, IGNORED)
        else:
            labels = input_ids.copy()
            # The one choice by id: a BOS that starts a row is context, since nothing comes before it.
            first = attention_mask.argmax(axis=1)
            starts_with_bos = input_ids[np.arange(len(rows)), first] == self.bos_token_id
            labels[np.flatnonzero(starts_with_bos), first[starts_with_bos]] = IGNORED
        labels[attention_mask == 0] = IGNORED
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        for name in ("document_ids", "piece_ids"):
            if name in rows[0]:
                batch[name] = self._pad(rows, name, lengths, -1)
        for name in ("num_bytes", "index"):
            if name in rows[0]:
                batch[name] = np.array([row[name] for row in rows], dtype=np.int64)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def _attention_mask(self, rows: list[dict[str, Any]], lengths: np.ndarray) -> np.ndarray:
        if "attention_mask" in rows[0]:
            return self._pad(rows, "attention_mask", lengths, 0)
        places = np.arange(lengths.max())
        if self.padding_side == "left":
            places = places[::-1]
        return (places < lengths[:, None]).astype(np.int64)

    def _pad(self, rows: list[dict[str, Any]], name: str, lengths: np.ndarray, filler: int) -> np.ndarray:
        for number, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if len(row[name]) != length:
                raise UserError(
                    f"row {number} of the batch has {len(row[name])} {name} for {length} input_ids: make them equal"
                )
        longest = lengths.max()
        if lengths.min() == longest:
            return np.array([row[name] for row in rows], dtype=np.int64)
        padded = np.full((len(rows), longest), filler, dtype=np.int64)
        for target, row, length in zip(padded, rows, lengths, strict=True):
            if self.padding_side == "left":
                target[longest - length :] = row[name]
            else:
                target[:length] = row[name]
        return padded
