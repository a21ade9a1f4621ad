"""Words for messages and notes."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message without its full stop, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def plural(count: int, noun: str) -> str:
    """Return ``"1 block"``, ``"1,200 blocks"``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
