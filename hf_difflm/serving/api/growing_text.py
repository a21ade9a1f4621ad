"""The text of one row while it is written: what is settled can be sent, and never has to be taken back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

STOP, LENGTH = "stop", "length"
"""Why a text ended: by the end token or a stop string, or because it was as long as it may be."""
_PARTIAL = "\ufffd"  # what a tokenizer makes of the first bytes of a character


class GrowingText:
    """Takes the tokens of a row from its beginning, again and again, each time at least as many.

    Args:
        decode: makes text of tokens.
        ends: tokens that end a text.
        stops: strings before which a text ends.
        strip: leave out the white space around the text.

    Attributes:
        text: what is settled: each time what was there before, and more. No half characters, nothing that might yet be the
            beginning of a stop string, or white space at the end that is left out.
        tokens: how many tokens were taken, with the one that ended the text.
        reason: why the text ended; None while it goes on.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], ends: Collection[int], stops: Sequence[str], strip: bool
    ) -> None:
        self._decode, self._ends, self.stops, self._strip = decode, ends, stops, strip
        self.text, self.tokens = "", 0
        self.reason: str | None = None

    def take(self, ids: Sequence[int], complete: bool = False) -> None:
        """Take all tokens that are settled; ``complete``: no more will come."""
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        self.tokens = len(ids) if end is None else end + 1
        text = self._decode(ids if end is None else ids[:end])
        reason = STOP if end is not None else LENGTH if complete else None
        stop = min((place for one in self.stops if (place := text.find(one)) >= 0), default=None)
        if stop is not None:
            text, reason = text[:stop], STOP
        elif reason is None:
            text = self._without_what_may_change(text)
        if self._strip:
            text = text.strip()
        if reason is not None or text.startswith(self.text):
            self.text, self.reason = text, reason

    def _without_what_may_change(self, text: str) -> str:
        text = text.rstrip(_PARTIAL)
        for size in range(max(map(len, self.stops), default=1) - 1, 0, -1):
            if any(one.startswith(text[-size:]) for one in self.stops if len(one) > size):
                return text[:-size]
        return text
