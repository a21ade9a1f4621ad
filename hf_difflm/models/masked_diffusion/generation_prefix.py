"""What a generation has read of its text, kept for the next one whose prompt begins with it: turns of a conversation."""

from __future__ import annotations

import numpy as np
from transformers import DynamicCache


class KeptPrefix:
    """Keys and values of the first tokens of one text, and which tokens they are of.

    Given to one generation after the other (``kept`` of :meth:`generate`), so that each reads only what its prompt does not
    share with what was read before. Tokens are compared one by one, and what follows the first other one is cut off; so are
    blocks of which a part is other. A generation that breaks off leaves nothing.

    Attributes:
        reused: tokens of the last prompt that were not read again.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Keep nothing."""
        self.reused = 0
        self._cache: DynamicCache | None = None
        self._ids_E = self._numbers_E = np.empty(0, dtype=np.int64)

    def take(self, ids_P: np.ndarray, numbers_P: np.ndarray, shift: int = 0) -> tuple[DynamicCache | None, int]:
        """Hand over what is kept of a prompt; nothing stays behind until :meth:`keep`.

        Args:
            ids_P: (P,) tokens of the prompt that may be kept.
            numbers_P: (P,) the number of the block of each: a token's keys and values tell of its whole block.
            shift: tokens at the end of what is shared that have to be read all the same.

        Returns:
            The cache, None where it has nothing of the prompt; and how many tokens it holds.
        """
        cache, ids_E, numbers_E = self._cache, self._ids_E, self._numbers_E
        self.forget()
        length = min(len(ids_E), len(ids_P))
        same = (ids_E[:length] == ids_P[:length]) & (numbers_E[:length] == numbers_P[:length])
        end = length if same.all() else int(same.argmin())
        while end and not (_is_edge(numbers_E, end) and _is_edge(numbers_P, end)):
            end -= 1
        if cache is None or end <= shift:
            return None, 0
        cache.crop(end - shift - cache.get_seq_length())
        self.reused = end - shift
        return cache, end - shift

    def keep(self, cache: DynamicCache, ids_E: np.ndarray, numbers_E: np.ndarray) -> None:
        """Keep what a generation has read, whole blocks of it; the cache may lack ``shift`` tokens at their end.

        Args:
            cache: its keys and values, of one row.
            ids_E: (E,) the tokens that they are of.
            numbers_E: (E,) the number of the block of each.
        """
        self._cache, self._ids_E, self._numbers_E = cache, ids_E.copy(), numbers_E.copy()


def _is_edge(numbers: np.ndarray, place: int) -> bool:
    """Whether a block ends before a place; the end of what there is is one."""
    return place == len(numbers) or numbers[place] != numbers[place - 1]


__all__ = ["KeptPrefix"]
