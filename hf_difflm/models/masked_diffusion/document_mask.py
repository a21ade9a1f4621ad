"""A mask of documents that knows where these are: on a CPU ``scaled_dot_product_attention`` then reads each by itself.

A mask saves nothing: the kernel compares all tokens of a row and forgets what it may not see, and a causal one that is given
a mask loses its own, which skips half of the work. Read one by one, only tokens of one document are compared. Whatever else
is done with it, this is the mask that it looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Span = tuple[int, int, int]
"""Row, first column, and the column behind the last."""


class DocumentMask(torch.Tensor):
    """(B, 1, L, L) bool, see above.

    Attributes:
        spans: where the documents are, row by row; absent in what is made of the mask.
        is_causal: whether a token sees those before it alone.
    """

    spans: list[Span]
    is_causal: bool

    @classmethod
    def of(cls, seen_B1LL: torch.Tensor, document_ids: torch.Tensor, is_causal: bool) -> torch.Tensor:
        """The mask, of (B, L) documents on a CPU, 0 at padding; elsewhere, or under a compiler, it stays what it is."""
        if document_ids.device.type != "cpu" or torch.compiler.is_compiling():
            return seen_B1LL
        mask = seen_B1LL.as_subclass(cls)
        mask.spans, mask.is_causal = spans_of(document_ids), is_causal
        return mask

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        found = super().__torch_function__(func, types, args, kwargs)
        # Where it is cut to the length that it has; what else is made of it may be another mask.
        is_cut = func is torch.Tensor.__getitem__ and isinstance(args[1], tuple) and hasattr(args[0], "spans")
        if is_cut and found.shape == args[0].shape and all(isinstance(part, slice) for part in args[1]):
            found.spans, found.is_causal = args[0].spans, args[0].is_causal
        return found


def spans_of(document_ids: torch.Tensor) -> list[Span]:
    """Where the documents of (B, L) rows are."""
    rows, length = document_ids.shape
    begins_BL = torch.ones_like(document_ids, dtype=torch.bool)
    begins_BL[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = begins_BL.flatten().nonzero().flatten().tolist()
    real = (document_ids.flatten()[starts] != 0).tolist()
    ends = [*starts[1:], rows * length]
    return [
        (start // length, start % length, start % length + end - start)
        for start, end, is_real in zip(starts, ends, real, strict=True)
        if is_real
    ]


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **kwargs: Any,
) -> torch.Tensor:
    """``scaled_dot_product_attention`` of (B, H, L, D) under a mask of documents, or under what was made of one."""
    rows, length = len(query), query.shape[-2]
    spans = getattr(attn_mask, "spans", None)
    if spans is None or attn_mask.shape != (rows, 1, length, key.shape[-2]):
        plain = attn_mask.as_subclass(torch.Tensor) if isinstance(attn_mask, DocumentMask) else attn_mask
        return F.scaled_dot_product_attention(query, key, value, plain, dropout_p, is_causal, **kwargs)
    padding_1HLD = value.new_zeros(1, query.shape[1], length, value.shape[-1])
    found: list[torch.Tensor] = []
    end_before = 0  # in all rows behind each other
    for row, start, end in spans:
        if gap := row * length + start - end_before:
            found += [padding_1HLD[:, :, :size] for size in _pieces(gap, length)]
        part = (slice(row, row + 1), slice(None), slice(start, end))
        found.append(
            F.scaled_dot_product_attention(
                query[part], key[part], value[part], None, dropout_p, attn_mask.is_causal, **kwargs
            )
        )
        end_before = row * length + end
    found += [padding_1HLD[:, :, :size] for size in _pieces(rows * length - end_before, length)]
    whole_1HMD = torch.cat(found, dim=-2)
    return whole_1HMD.unflatten(-2, (rows, length)).squeeze(0).transpose(0, 1)


def _pieces(gap: int, most: int) -> list[int]:
    """A number as a sum of numbers up to ``most``."""
    return [most] * (gap // most) + ([gap % most] if gap % most else [])


__all__ = ["DocumentMask", "spans_of"]
