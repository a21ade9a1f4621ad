"""Flags that take several values at once: ``--names MDLM AR``."""

from __future__ import annotations

from typing import Any

from .parsing import Command

_FLAGS = ("--names", "--kind")


class SeveralValuesCommand(Command):
    """Takes several values after one ``--names`` or ``--kind``: all up to the next flag."""

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
