"""Text to the ids that a model gets: with BOS or without, with control tokens as ids or as letters, around holes.

A model that this library trained gets what it was trained on: each text begins with BOS, and a control token that stands in
running text is letters. Any other model gets what its tokenizer makes of text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_difflm.errors import UserError

MARK = "begins_with_bos"
"""Key of a tokenizer's configuration: it was made ready to train by :func:`~hf_difflm.data.tokenizers.load_tokenizer`."""
FILLERS = ("\ue000", "\n")
"""Stand for what a hole hides: no vocabulary joins them with what is beside them, or another is tried."""


@dataclass(frozen=True)
class TextIds:
    """How text becomes ids for one model.

    Attributes:
        tokenizer: its tokenizer.
        bos_token_id: what a text begins with; None: with its first token.
        start_token_id: what the first token of a text is predicted from: BOS, else EOS, which ends the text before it; None
            without either.
        reads_control_tokens: whether the name of a control token in running text is that token, and not letters.
    """

    tokenizer: Any
    bos_token_id: int | None
    start_token_id: int | None
    reads_control_tokens: bool

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        *,
        trained_here: bool | None = None,
        add_bos: bool | None = None,
        bos_token: str | None = None,
    ) -> TextIds:
        """Return the convention of a model.

        Args:
            tokenizer: its tokenizer.
            trained_here: whether this library has trained it; None: whether its tokenizer was made ready for that.
            add_bos: whether a text begins with BOS; None: as in training, else as the tokenizer does.
            bos_token: the token that it begins with; None: the tokenizer's BOS.

        Raises:
            UserError: no such token, or none to begin with.
        """
        if trained_here is None:
            trained_here = bool(getattr(tokenizer, "init_kwargs", {}).get(MARK, False))
        bos = tokenizer.bos_token_id
        if bos_token is not None:
            if add_bos is False:
                raise UserError(
                    "--bos-token begins a text, and --no-add-bos begins none with it; leave one of them out"
                )
            bos, add_bos = _id_of(tokenizer, bos_token), True
        if add_bos is None:
            add_bos = (trained_here and bos is not None) or _adds_bos(tokenizer)
        if add_bos and bos is None:
            raise UserError("the tokenizer has no BOS token to begin a text with; name one with --bos-token")
        start = tokenizer.eos_token_id if bos is None else bos
        return cls(tokenizer, bos if add_bos else None, start, not trained_here)

    @property
    def facts(self) -> dict[str, Any]:
        """What a result says of it: ``add_bos`` and ``bos_token``, None where a text begins with its first token."""
        bos = self.bos_token_id
        return {
            "add_bos": bos is not None,
            "bos_token": None if bos is None else self.tokenizer.convert_ids_to_tokens(bos),
        }

    @property
    def needs_labels(self) -> bool:
        """Whether rows must say themselves that their first token is context: it is not the tokenizer's BOS."""
        return self.bos_token_id is None or self.bos_token_id != self.tokenizer.bos_token_id

    def written(self, text: str) -> list[int]:
        """Ids of a prompt or of what a chat template wrote, without BOS: the names of control tokens are these tokens.

        As far as the tokenizer reads them at all (``split_special_tokens``); the mask token is always letters.
        """
        text = _valid(text)
        mask = getattr(self.tokenizer, "mask_token", None)
        if mask is None or mask not in text or getattr(self.tokenizer, "split_special_tokens", False):
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        parts = [self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(mask)]
        if not control_ids(self.tokenizer).intersection(token for part in parts for token in part):
            return self.letters(text)
        letters = self.letters(mask)
        return [token for number, part in enumerate(parts) for token in (letters * (number > 0) + part)]

    def letters(self, text: str) -> list[int]:
        """Ids of a text without BOS, in which the name of a control token is letters."""
        return self.tokenizer(_valid(text), add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def running(self, text: str) -> list[int]:
        """Ids of running text without BOS, read as in training, by another model as its tokenizer does."""
        return self.written(text) if self.reads_control_tokens else self.letters(text)

    def begun(self, ids: Sequence[int]) -> list[int]:
        """Put BOS before ids, where texts begin with it and these do not yet."""
        bos = self.bos_token_id
        return list(ids) if bos is None or list(ids[:1]) == [bos] else [bos, *ids]

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt as the model gets it; of the empty one what its first token is predicted from.

        Raises:
            UserError: it is empty, and the tokenizer has neither BOS nor EOS.
        """
        return self.begun(self.written(text)) or [self.start()]

    def shown(self, ids: Sequence[int]) -> str:
        """Return ids as text that :meth:`prompt` makes these ids of, where there is such a text."""
        texts = [self.tokenizer.decode(part, skip_special_tokens=False) for part in (ids, ids[1:])]
        return next((text for text in texts if self.prompt(text) == list(ids)), texts[0])

    def start(self) -> int:
        """What the first token of a text is predicted from.

        Raises:
            UserError: the tokenizer has neither BOS nor EOS.
        """
        if self.start_token_id is None:
            raise UserError(
                "the tokenizer has neither a BOS nor an EOS token to begin a text with; name one of its tokens with "
                "--bos-token (eval), or give a prompt (generate)"
            )
        return self.start_token_id

    def around_holes(self, parts: Sequence[str]) -> list[list[int]]:
        """Ids of what stands around holes, each part with the tokens it has in the whole text.

        A blank before a hole belongs to the word that is hidden where the tokenizer writes blanks with the word behind
        them, and no part but the first begins a text.

        Args:
            parts: of P texts, with a hole between one and the next.

        Returns:
            P lists.
        """
        parts = [_valid(part) for part in parts]
        kept = [part.removesuffix(" ") if self._joins_blanks else part for part in parts[:-1]] + list(parts[-1:])
        for filler in FILLERS if getattr(self.tokenizer, "is_fast", False) else ():
            if (found := self._in_whole(parts, kept, filler)) is not None:
                return found
        return [self.tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in kept]

    @functools.cached_property
    def _joins_blanks(self) -> bool:
        """Whether the blank before a word is part of its token, or of none."""
        word, blank = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "a "))
        if len(blank) <= len(word):
            return True
        name = self.tokenizer.convert_ids_to_tokens(blank[-1])
        return any(token.startswith(name) and token[len(name) :].isalpha() for token in self.tokenizer.get_vocab())

    def _in_whole(self, parts: Sequence[str], kept: Sequence[str], filler: str) -> list[list[int]] | None:
        """The tokens of each part where ``filler`` stands for the holes; None where one reaches over an edge."""
        if any(filler in part for part in parts):
            return None
        whole = filler.join(parts)
        encoded = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        edges, place = [], 0
        for part, own in zip(parts, kept, strict=True):
            edges.append((place, place + len(own)))
            place += len(part) + len(filler)
        found: list[list[int]] = [[] for _ in parts]
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            inside = [number for number, (first, last) in enumerate(edges) if start < last and end > first]
            if not inside:
                continue  # of a hole
            first, last = edges[inside[0]]
            if len(inside) > 1 or start < first or end > last:
                return None
            found[inside[0]].append(token)
        return found


def control_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the special tokens, those without a role among them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(token for token, what in added.items() if what.special)}


def pad_id(tokenizer: Any) -> int:
    """Return an id to fill rows up with; padding is masked, so any will do where the tokenizer has none for it."""
    for known in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if known is not None:
            return known
    return 0


def _adds_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer puts BOS before text, as it is called by default."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def _id_of(tokenizer: Any, token: str) -> int:
    if token not in tokenizer.get_vocab():
        raise UserError(f"--bos-token {token!r} is no token of the tokenizer; give one of its own, such as its EOS")
    return tokenizer.convert_tokens_to_ids(token)


def _valid(text: str) -> str:
    """A text in which a lone surrogate, which has no UTF-8, is U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
