"""Which words of generated texts the training text has."""

from __future__ import annotations

import pytest

from hf_difflm.data import load_tokenizer
from hf_difflm.evaluation.quality.known_words import known_words, training_words, words_of


def test_words_are_runs_of_four_letters_and_more():
    assert words_of(["The Argument, of fooo3bar42bazz; naïve_words don't"]) == [
        "Argument", "fooo", "bazz", "naïve", "words",
    ]  # fmt: skip


def test_the_share_is_of_all_words_and_not_of_different_ones():
    share, count = known_words(["return return retrun", "self tpye"], {"return", "self"})
    assert (share, count) == (pytest.approx(3 / 5), 5)
    assert known_words(["a b c 123"], {"return"}) == (None, 0)


def test_the_words_of_a_training_set_are_those_of_its_blocks():
    tokenizer = load_tokenizer("bytes")
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in ("def function", "returns nothing")]
    assert training_words(rows, tokenizer) == {"function", "returns", "nothing"}
