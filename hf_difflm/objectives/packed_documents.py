"""Rows that hold several documents: an objective sees each document as a row of its own, the model reads the rows.

So all that is drawn, weighed and measured is of documents, whichever rows they lie in, and the network still runs over full
rows, in which documents see nothing of each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from .base import Batch, NoiseKey, to_device, unwrapped

PIECES = "piece_ids"
"""Column of a batch whose rows hold several documents: (B, L) the number, in the data, of the document (or of the part of
one that fits into a row) that each token is of; -1 at padding."""


@dataclass(frozen=True)
class Layout:
    """Where the documents of a batch stand in its rows; D documents, the longest of M tokens, in B rows of L.

    Attributes:
        piece_D: number of each document in the data.
        row_D, start_D, length_D: which row, from which column on, how many tokens.
        shape: (B, L).
    """

    piece_D: np.ndarray
    row_D: np.ndarray
    start_D: np.ndarray
    length_D: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def of(cls, piece_BL: np.ndarray) -> Layout:
        """The layout of a batch, from its column ``piece_ids``."""
        rows, length = piece_BL.shape
        begins_BL = np.ones(piece_BL.shape, dtype=bool)
        begins_BL[:, 1:] = piece_BL[:, 1:] != piece_BL[:, :-1]
        row_X, start_X = np.nonzero(begins_BL)
        flat_X = row_X * length + start_X
        length_X = np.diff(np.append(flat_X, rows * length))
        piece_X = piece_BL[row_X, start_X]
        real_X = piece_X >= 0
        return cls(piece_X[real_X], row_X[real_X], start_X[real_X], length_X[real_X], (rows, length))

    def index(self, reads: int = 1) -> np.ndarray:
        """(D·reads, M) place of each token in the flattened rows, each row ``reads`` times; behind the last at padding."""
        rows, length = self.shape
        first_R = ((self.row_D[:, None] * reads + np.arange(reads)) * length + self.start_D[:, None]).reshape(-1)
        column_M = np.arange(int(self.length_D.max(initial=1)))
        index_RM = first_R[:, None] + column_M
        index_RM[column_M >= self.length_D.repeat(reads)[:, None]] = rows * reads * length
        return index_RM

    def document_ids(self, reads: int = 1) -> np.ndarray:
        """(B·reads, L) which of its row's documents each token is of, from 1 on; 0 at padding."""
        rows, length = self.shape
        found_BL = np.zeros((rows, length), dtype=np.int64)
        first_D = np.searchsorted(self.row_D, self.row_D)  # documents are in the order of their rows
        for number, row, start, size in zip(
            np.arange(len(self.row_D)) - first_D + 1, self.row_D, self.start_D, self.length_D, strict=True
        ):
            found_BL[row, start : start + size] = number
        return found_BL.repeat(reads, axis=0)


def documents_apart(batch: Batch) -> tuple[Batch, Layout]:
    """Return a batch with a row for each document, padded on the right, and where they stood.

    Args:
        batch: with the column ``piece_ids``.
    """
    layout = Layout.of(batch[PIECES].numpy())
    index_DM = torch.from_numpy(layout.index())
    is_real_DM = index_DM < batch["input_ids"].numel()

    def apart(values_BL: torch.Tensor, filler: int) -> torch.Tensor:
        return torch.cat([values_BL.flatten(), values_BL.new_full((1,), filler)])[index_DM]

    pad = int(batch["input_ids"].flatten()[0])  # any token: nobody reads it
    return {
        "input_ids": apart(batch["input_ids"], pad),
        "attention_mask": is_real_DM.long(),
        "labels": apart(batch["labels"], -100),
    }, layout


def numbered(key: NoiseKey, layout: Layout, batch_pieces: np.ndarray) -> NoiseKey:
    """Return the key of documents: a document's numbers hang on its own number in the data, its stratum on its place.

    Args:
        key: of the rows.
        layout: of this batch.
        batch_pieces: numbers of all documents of the optimiser batch, over all ranks, in any order.
    """
    ordered = np.sort(batch_pieces)
    return replace(key, places_B=np.searchsorted(ordered, layout.piece_D), size=len(ordered), numbers_B=layout.piece_D)


class SideBySide:
    """Calls a model with the documents of a batch in the rows they came in; other attributes are the model's own.

    Args:
        model: the network, perhaps wrapped (DDP, FSDP).
        layout: where they stood.
        device: where the model is.
    """

    def __init__(self, model: Any, layout: Layout, device: torch.device | str) -> None:
        self.model = model
        self.layout = layout
        self.device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(unwrapped(self.__dict__["model"]), name)

    def __call__(
        self,
        *,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        clean_ids: torch.Tensor | None = None,
        answer_starts: torch.Tensor | None = None,
        **given: Any,
    ) -> Any:
        """See :meth:`MaskedDiffusionForMaskedLM.forward`; what it returns of ``positions`` is in their order."""
        layout = self.layout
        reads = len(input_ids) // len(layout.piece_D)
        rows, length = layout.shape
        index_RM = to_device(torch.from_numpy(layout.index(reads)), self.device)

        def in_rows(values: torch.Tensor, filler: int, index: torch.Tensor, times: int) -> torch.Tensor:
            flat = values.new_full((rows * times * length + 1,), filler)
            values = values.reshape(len(values), -1).expand(index.shape)
            return flat.scatter(0, index.flatten(), values.flatten())[:-1].view(rows * times, length)

        if labels is not None:
            given["labels"] = in_rows(labels, -100, index_RM, reads)
        if loss_weights is not None:
            given["loss_weights"] = in_rows(loss_weights, 0, index_RM, reads)
        if clean_ids is not None or answer_starts is not None:
            index_DM = index_RM if reads == 1 else to_device(torch.from_numpy(layout.index()), self.device)
            if clean_ids is not None:
                given["clean_ids"] = in_rows(clean_ids, 0, index_DM, 1)
            if answer_starts is not None:
                given["answer_starts"] = in_rows(answer_starts, 0, index_DM, 1)
        document_ids = torch.from_numpy(layout.document_ids(1 if clean_ids is not None else reads))
        outputs = self.model(
            input_ids=in_rows(input_ids, 0, index_RM, reads),
            positions=index_RM.flatten()[positions],
            document_ids=to_device(document_ids, self.device),
            **given,
        )
        if outputs.hidden_states is not None:
            last_MD = outputs.hidden_states[-1].flatten(0, 1)
            outputs.hidden_states = (last_MD[index_RM.clamp(max=len(last_MD) - 1)],)
        return outputs
