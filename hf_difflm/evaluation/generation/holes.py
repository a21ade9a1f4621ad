"""Prompts with holes: the mask token written in a text, ``To be [MASK]{12} not to be``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...errors import UserError

_MOST = 1_000_000  # holes of a prompt where the model does not say how long a text may be


@dataclass(frozen=True)
class PromptIds:
    """A prompt as a denoiser gets it.

    Attributes:
        ids: its tokens, masks where something is to be filled in.
        spans: (start, end) of each hole.
    """

    ids: list[int]
    spans: tuple[tuple[int, int], ...] = ()


def with_holes(tokenizer: Any, prompt: str, limit: int | None, encode: Any) -> PromptIds | None:
    """Return a prompt in which the mask token is a hole and the mask token with ``{n}`` behind it n of them.

    Holes side by side are one span; the texts between holes are encoded apart.

    Args:
        tokenizer: with a mask token.
        prompt: the text.
        limit: most tokens the model takes.
        encode: from a text to ids.

    Returns:
        None where there is no hole.

    Raises:
        UserError: more holes than the model takes tokens, or a hole of no tokens.
    """
    mask = tokenizer.mask_token
    if mask is None or mask not in prompt:
        return None
    parts = re.split(re.escape(mask) + r"(?:\{(\d{1,18})\})?", prompt)
    sizes = [1 if size is None else int(size) for size in parts[1::2]]
    most = limit or _MOST
    if 0 in sizes:
        raise UserError(f"{mask}{{0}} is no hole; write a number of tokens of at least 1")
    if sum(sizes) > most:
        raise UserError(f"the holes of a prompt have {sum(sizes)} tokens, but the model takes {most}; lower the number")
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for place, text in enumerate(parts[::2]):
        ids += encode(tokenizer, text) if text else []
        if place < len(sizes):
            start = len(ids)
            ids += [tokenizer.mask_token_id] * sizes[place]
            if spans and spans[-1][1] == start:
                start = spans.pop()[0]
            spans.append((start, len(ids)))
    return PromptIds(ids, tuple(spans))
