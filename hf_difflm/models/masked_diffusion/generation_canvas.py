"""The canvas of a generation: prompts, holes, what is padding, and what part of it the model reads."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


class Canvas:
    """The (B, L) ids that are filled; L = P + new tokens. What is masked is also known on the host, in NumPy.

    Args:
        prompt_BP: (B, P) ids; masks in it are holes.
        attention_BP: (B, P), 0 at padding; None where there is none.
        new_tokens: masks to append.
        mask_id: the mask token.
        limit: positions the model reads at once; None: any number.
        device: where the ids lie.

    Attributes:
        ids_BL: the ids, on the device.
        holes_BL: bool, what is to be filled.
        masked_BL: bool, holes that are masked now.
        revealed_at_BL: the step that revealed a position; 0 what was given, -1 what is masked.
        real_BL: bool, what is no padding.
        padding_B: how much of it there is on the left.
        place_BL: number of a position in its row, padding apart.
    """

    def __init__(
        self,
        prompt_BP: torch.Tensor,
        attention_BP: torch.Tensor | None,
        new_tokens: int,
        mask_id: int,
        limit: int | None,
        device: torch.device,
    ) -> None:
        self.mask_id = mask_id
        self.prompt_length = prompt_BP.shape[1]
        self.new_tokens = new_tokens
        self.ids_BL = F.pad(prompt_BP.to(device, torch.long), (0, new_tokens), value=mask_id)
        if attention_BP is not None and bool(attention_BP.all()):
            attention_BP = None  # nothing is padding: attention kernels are faster without a mask
        self.attention_BL: torch.Tensor | None = None
        self.real_BL = real_BL = np.ones(self.ids_BL.shape, dtype=bool)
        if attention_BP is not None:
            self.attention_BL = F.pad(attention_BP.to(device), (0, new_tokens), value=1)
            real_BL[:, : self.prompt_length] = attention_BP.cpu().numpy().astype(bool)
        self.holes_BL = (self.ids_BL == mask_id).cpu().numpy() & real_BL
        self.masked_BL = self.holes_BL.copy()
        self.revealed_at_BL = np.where(self.holes_BL, -1, 0)
        # Random numbers and windows count from the first token, so that padding changes nothing.
        self.padding_B = real_BL.argmax(-1)
        self.place_BL = (real_BL.cumsum(-1) - 1).clip(0)
        self._width = self.length if limit is None else min(limit, self.length)

    @property
    def length(self) -> int:
        """L."""
        return self.ids_BL.shape[1]

    @property
    def first_hole(self) -> int:
        """The first column in which any row has a hole; L where none has."""
        columns_L = self.holes_BL.any(0)
        return int(columns_L.argmax()) if columns_L.any() else self.length

    def given(self, bos_id: int | None) -> torch.Tensor:
        """(B, L) bool, the given tokens that guidance hides: the prompt without padding and the BOS that begins it."""
        given_BL = ~self.holes_BL
        given_BL &= np.arange(self.length)[None] >= self.padding_B[:, None]
        given_BL_ids = torch.from_numpy(given_BL).to(self.ids_BL.device)
        if bos_id is not None:
            first_BL = torch.from_numpy(self.place_BL == 0).to(self.ids_BL.device)
            given_BL_ids &= ~(first_BL & (self.ids_BL == bos_id))
        return given_BL_ids

    def window_starts(self, last_column: int, wanted_BL: np.ndarray) -> np.ndarray:
        """(B,) first column that the model reads while columns up to ``last_column`` are filled.

        It reads the end of the text where all fits, else as much of the context as ends with the block; never more than
        the row alone would let it, so padding changes nothing.

        Raises:
            ValueError: a hole lies before the window of its row.
        """
        end_B = np.minimum(self.length, np.maximum(self.padding_B + self._width, last_column))
        start_B = end_B - self._width
        lost_BL = wanted_BL & (np.arange(self.length)[None] < start_B[:, None])
        if lost_BL.any():
            row, column = np.argwhere(lost_BL)[0]
            raise ValueError(
                f"the mask at position {column - self.padding_B[row]} of prompt {row} lies outside the last "
                f"{self._width} positions, which is all the model reads; shorten the prompt or lower block_length"
            )
        return start_B

    def read(self, rows_R: np.ndarray, start_R: np.ndarray) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """What the model reads of some rows: (R, W) ids and attention mask, and the (R, L) canvas they are from."""
        index_R = torch.from_numpy(rows_R).to(self.ids_BL.device)
        ids_RL = self.ids_BL[index_R]
        attention_RL = None if self.attention_BL is None else self.attention_BL[index_R]
        if self._width == self.length:
            return ids_RL, attention_RL, ids_RL
        columns_RW = torch.from_numpy(start_R[:, None] + np.arange(self._width)[None]).to(self.ids_BL.device)
        attention_RW = None if attention_RL is None else attention_RL.gather(1, columns_RW)
        return ids_RL.gather(1, columns_RW), attention_RW, ids_RL

    @property
    def window(self) -> int:
        """W, the positions the model reads at once."""
        return self._width

    def without_padding(self, ids_RL: torch.Tensor, rows_R: np.ndarray) -> torch.Tensor:
        """Canvas rows with masks at their padding: what a logits processor may count as text of the row."""
        if self.attention_BL is None:
            return ids_RL
        return ids_RL.masked_fill(self.attention_BL[torch.from_numpy(rows_R).to(ids_RL.device)] == 0, self.mask_id)

    def reveal(self, row_N: np.ndarray, column_N: np.ndarray, tokens_N: torch.Tensor, step: int) -> None:
        """Write tokens."""
        flat_N = torch.from_numpy(row_N * self.length + column_N).to(self.ids_BL.device)
        self.ids_BL.view(-1)[flat_N] = tokens_N
        self.masked_BL[row_N, column_N] = False
        self.revealed_at_BL[row_N, column_N] = step

    def mask(self, where_BL: np.ndarray) -> None:
        """Make masks of revealed holes again."""
        self.ids_BL.masked_fill_(torch.from_numpy(where_BL).to(self.ids_BL.device), self.mask_id)
        self.masked_BL |= where_BL
        self.revealed_at_BL[where_BL] = -1


def split_steps(steps: int, new_tokens: int, block_length: int | None) -> list[tuple[int, int]]:
    """(steps, new tokens up to its end) of each block, left to right; early blocks get the steps that are over.

    Raises:
        ValueError: more blocks than steps.
    """
    if block_length is None or block_length >= new_tokens:
        return [(steps, new_tokens)]
    blocks = -(-new_tokens // block_length)
    if steps < blocks:
        raise ValueError(
            f"max_denoising_steps {steps} are fewer than the {blocks} blocks of block_length {block_length}; "
            "raise one of them"
        )
    each, over = divmod(steps, blocks)
    return [(each + (block < over), min((block + 1) * block_length, new_tokens)) for block in range(blocks)]
