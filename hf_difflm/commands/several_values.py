"""Flags that take several values at once: ``--names MDLM AR``, ``--seeds 1,2,3``."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .spelling import Command

_FLAGS = ("--names", "--kind", "--metric")


class SeveralValuesCommand(Command):
    """Takes several values after one ``--names``, ``--kind`` or ``--metric``: all up to the next flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        flag: str | None = None
        for place, token in enumerate(args):
            if token.startswith("--"):
                flag = token if token in _FLAGS else None
                spread.append(token)
            elif flag is not None and args[place - 1] != flag:
                spread += [flag, token]
            else:
                spread.append(token)
        return super().parse_args(ctx, spread)


def whole_numbers(flag: str, text: str) -> list[int]:
    """Return ``"1,2,3"`` as numbers.

    Raises:
        UserError: no such list, or a number is there twice; ``flag`` is whose value it is.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) != len(parts):
        raise UserError(f"{flag} must be different whole numbers with commas between them, got {text!r}")
    return [int(part) for part in parts]
