"""Prompts with holes: the mask token written in a text, ``To be [MASK]{12} not to be``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...data.text_ids import TextIds
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


def with_holes(text: TextIds, prompt: str, limit: int | None) -> PromptIds | None:
    """Return a prompt in which the mask token is a hole and the mask token with ``{n}`` behind it n of them, BOS included.

    Holes side by side are one span; what stands around holes is encoded as it is in the whole text.

    Args:
        text: how text becomes ids.
        prompt: the text.
        limit: most tokens the model takes.

    Returns:
        None where there is no hole.

    Raises:
        UserError: more holes than the model takes tokens, or a hole of no tokens.
    """
    tokenizer = text.tokenizer
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
    around = text.around_holes(parts[::2])
    ids: list[int] = text.begun(around[0])
    spans: list[tuple[int, int]] = []
    for place, size in enumerate(sizes):
        start = len(ids)
        ids += [tokenizer.mask_token_id] * size
        if spans and not parts[2 * place]:
            start = spans.pop()[0]
        spans.append((start, len(ids)))
        ids += around[place + 1]
    return PromptIds(ids, tuple(spans))
