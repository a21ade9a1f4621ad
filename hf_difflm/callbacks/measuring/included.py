"""Which of the measured numbers are reported: those whose names match a pattern."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from ...errors import UserError

logger = logging.getLogger(__name__)


class Included:
    """Picks names by patterns of the shell: ``grad_norm/layer_0*``, or without the part before the slash ``layer_0*``.

    Args:
        patterns: None: everything is reported.

    Raises:
        UserError: patterns is one string, or empty.
    """

    def __init__(self, patterns: Sequence[str] | None) -> None:
        if patterns is not None and (isinstance(patterns, str) or not patterns):
            raise UserError(f"include is {patterns!r}; give a list of patterns such as ['global', 'layer_0*'], or None")
        self._patterns = patterns
        self._warned = False

    def of(self, numbers: Mapping[str, Any], further: Collection[str] = ()) -> dict[str, Any]:
        """Return what is reported of these; a pattern that nothing matches, ``further`` names too, is one warning."""
        if self._patterns is None:
            return dict(numbers)
        if not self._warned and (idle := [p for p in self._patterns if not _any(p, numbers) and not _any(p, further)]):
            self._warned = True
            some = ", ".join(list(numbers)[:12])
            logger.warning("include: nothing is called %s; there are %s, ...", ", ".join(map(repr, idle)), some)
        return {name: value for name, value in numbers.items() if any(_any(p, (name,)) for p in self._patterns)}


def _any(pattern: str, names: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name.partition("/")[2], pattern) for name in names)
