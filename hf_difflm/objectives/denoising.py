"""One pass of the denoiser over a batch whose chosen tokens are hidden, for objectives that weigh tokens one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .base import Batch, attention_mask_or_none, to_device, unwrapped


@dataclass
class Hidden:
    """The hidden tokens of a batch and where they are.

    Args:
        inputs: what the model is called with, on the device: the partly masked ids, the attention mask, the positions and,
            if the model reads it, the time.
        labels_BL: (B, L) clean ids on the host, -100 where nothing is hidden.
        rows_N, columns_N: (N,) places of the hidden tokens, on the host.
        positions_N: (N,) the same on the device, as indices into the flattened batch.
        targets_N: (N,) the hidden tokens, on the device.
        device: where the model is.
    """

    inputs: dict[str, Any]
    labels_BL: torch.Tensor
    rows_N: np.ndarray
    columns_N: np.ndarray
    positions_N: torch.Tensor
    targets_N: torch.Tensor
    device: torch.device | str

    def on_device(self, values_BL: np.ndarray) -> torch.Tensor:
        """(N,) float32 on the device: the values of the hidden tokens, from (B, L), (B, 1) or (B,) on the host."""
        values_BL = values_BL[:, None] if values_BL.ndim == 1 else values_BL
        picked_N = np.broadcast_to(values_BL, self.labels_BL.shape)[self.rows_N, self.columns_N]
        return to_device(torch.from_numpy(picked_N).float(), self.device)

    def cross_entropy(self, model: Any, weights_BL: np.ndarray, accuracy: bool, **kwargs: Any) -> Any:
        """Call the model with labels; its loss is the sum over hidden tokens weighed by (B, L) or (B, 1) weights."""
        return model(
            **self.inputs,
            labels=to_device(self.labels_BL, self.device),
            loss_weights=to_device(torch.from_numpy(weights_BL).float(), self.device),
            output_correct=accuracy,
            **kwargs,
        )


def hide(
    model: Any,
    batch: Batch,
    masked_BL: np.ndarray,
    mask_token_id: int,
    device: torch.device | str,
    t_B: np.ndarray | None = None,
) -> Hidden:
    """Put the mask token in the place of the chosen tokens.

    Args:
        model: only asked whether it reads the time (``config.time_conditioned``).
        batch: clean tokens on the host.
        masked_BL: (B, L) bool, which to hide.
        mask_token_id: id of the mask token.
        device: where the model is.
        t_B: (B,) times, for a model that reads them.
    """
    masked = torch.from_numpy(masked_BL)
    mask = attention_mask_or_none(batch)
    rows_N, columns_N = np.nonzero(masked_BL)
    positions_N = to_device(torch.from_numpy(rows_N * masked_BL.shape[1] + columns_N), device)
    inputs = {
        "input_ids": to_device(batch["input_ids"].masked_fill(masked, mask_token_id), device),
        "attention_mask": None if mask is None else to_device(mask, device),
        "positions": positions_N,
    }
    if t_B is not None and reads_time(model):
        inputs["times"] = to_device(torch.from_numpy(t_B).float(), device)
    return Hidden(
        inputs=inputs,
        labels_BL=batch["labels"].masked_fill(~masked, -100),
        rows_N=rows_N,
        columns_N=columns_N,
        positions_N=positions_N,
        targets_N=to_device(batch["labels"][masked], device),
        device=device,
    )


def reads_time(model: Any) -> bool:
    """Whether the model's ``forward`` takes ``times`` (B,): its configuration says ``time_conditioned``."""
    config = getattr(unwrapped(model), "config", None)
    return bool(getattr(config, "time_conditioned", False))
