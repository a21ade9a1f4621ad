"""Rows of a padded batch through a backbone whose result padding would change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.modeling_outputs import MoeModelOutputWithPast


def one_by_one(
    backbone: Callable[..., Any], input_ids: torch.Tensor, attention_mask: torch.Tensor, kwargs: dict[str, Any]
) -> Any:
    """Call a backbone with each row alone, without its padding, and put the results where its tokens stand.

    The host waits for the mask: where a row begins and ends is its affair.

    Args:
        backbone: takes ids, an attention mask and ``kwargs``.
        input_ids: (B, L) ids.
        attention_mask: (B, L), 0 at padding on either side.
        kwargs: of the backbone; tensors that begin with (B, ...) or (B, L, ...) are cut like the ids.

    Returns:
        An output of transformers: ``last_hidden_state`` (B, L, D), 0 at padding; ``hidden_states`` and ``router_logits``
        if asked for.

    Raises:
        ValueError: attentions are asked for, which differ in size from row to row.
    """
    if kwargs.get("output_attentions"):
        raise ValueError(
            "this backbone reads rows of several lengths one by one: it has no attentions of a padded batch"
        )
    rows, length = input_ids.shape
    whole: dict[str, list[torch.Tensor]] = {}
    found: Any
    for row, mask_L in enumerate(attention_mask):
        places = torch.nonzero(mask_L).squeeze(-1)
        if not len(places):
            continue
        own = {name: _cut(value, row, places, rows, length) for name, value in kwargs.items()}
        outputs = backbone(input_ids[row, places][None], None, **own)
        for name in ("last_hidden_state", "hidden_states", "router_logits"):
            found = outputs.get(name)
            if found is None:
                continue
            parts = [part.reshape(len(places), -1) for part in ([found] if torch.is_tensor(found) else found)]
            if name not in whole:
                whole[name] = [part.new_zeros(rows, length, part.shape[-1]) for part in parts]
            for target_BLX, part_LX in zip(whole[name], parts, strict=True):
                target_BLX[row, places] = part_LX
    lists: dict[str, Any] = {name: tuple(parts) for name, parts in whole.items() if name != "last_hidden_state"}
    return MoeModelOutputWithPast(last_hidden_state=whole["last_hidden_state"][0], **lists)


def _cut(value: Any, row: int, places: torch.Tensor, rows: int, length: int) -> Any:
    if not torch.is_tensor(value) or value.dim() == 0 or value.shape[0] not in (1, rows):
        return value
    own = value if value.shape[0] == 1 else value[row : row + 1]
    return own[:, places] if own.dim() > 1 and own.shape[1] == length else own


__all__ = ["one_by_one"]
