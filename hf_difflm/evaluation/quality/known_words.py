"""Whether a model writes words: the share of those in its texts that occur in the text it was trained on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_WORD = re.compile(r"[^\W\d_]{4,}")  # letters alone, four and more: shorter ones come up by chance


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of four letters and more, in order; a word is a run of letters."""
    return [word for text in texts for word in _WORD.findall(text)]


def training_words(dataset: Any, tokenizer: Any) -> set[str]:
    """Every such word of a training set with ``input_ids``; of two blocks that part a word, its halves."""
    decoded = (tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in dataset)
    return set(words_of(decoded))


def known_words(texts: Iterable[str], known: set[str]) -> tuple[float | None, int]:
    """The share of the words of ``texts`` that are among ``known``, None without any word; and how many words there are."""
    words = words_of(texts)
    return (sum(word in known for word in words) / len(words) if words else None), len(words)
