"""What lm-evaluation-harness asks for, in parts that fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tqdm.auto import tqdm

_AT_ONCE = 256


def cut_context(context: list[int], room: int) -> list[int]:
    """The first token of a context, which is BOS, and its end."""
    return [context[0], *context[len(context) - room + 1 :]] if room > 1 else context[:1]


def text_until(text: str, stops: str | list[str] | None) -> str:
    """The text before the first of the stops."""
    for stop in [stops] if isinstance(stops, str) else stops or []:
        if stop:
            text = text.split(stop)[0]
    return text


def some_at_a_time(requests: list[Any], what: str, quiet: bool, size: int = _AT_ONCE) -> Iterator[list[Any]]:
    """Some requests at a time, under a progress bar where stderr is a terminal."""
    with tqdm(total=len(requests), desc=what, leave=False, dynamic_ncols=True, disable=True if quiet else None) as bar:
        for start in range(0, len(requests), size):
            part = requests[start : start + size]
            yield part
            bar.update(len(part))
