"""Words for messages and notes."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """Return ``"1 block"``, ``"1,200 blocks"``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
