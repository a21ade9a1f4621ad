"""The one exception meant for the user's eyes, and what its sentences are made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input or a run that cannot go on: one sentence that says what is wrong, with the value, and what to do.

    The command line prints the sentence to stderr and exits with code 2, without a traceback.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message without its full stop, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
