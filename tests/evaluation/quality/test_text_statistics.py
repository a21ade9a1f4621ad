"""Variety and repetition against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.errors import UserError
from hf_difflm.evaluation.quality.text_statistics import (
    distinct_n,
    longest_run,
    mean_quality,
    repeated_n,
    text_quality,
    tokens_of,
    top_share,
    unigram_entropy,
)

ids = st.lists(st.integers(0, 4), max_size=30)


def _grams(tokens, n):
    return [tuple(tokens[place : place + n]) for place in range(len(tokens) - n + 1)]


@given(st.lists(ids, max_size=4), st.integers(1, 5))
def test_distinct_n_counts_the_ngrams_that_no_other_comes_before(texts, n):
    grams = [gram for text in texts for gram in _grams(text, n)]
    new = sum(gram not in grams[:place] for place, gram in enumerate(grams))
    assert distinct_n(texts, n) == (new / len(grams) if grams else None)


@given(ids, st.integers(1, 5))
def test_repeated_n_is_the_share_of_ngrams_that_came_before(tokens, n):
    grams = _grams(tokens, n)
    again = sum(gram in grams[:place] for place, gram in enumerate(grams))
    assert repeated_n(tokens, n) == (pytest.approx(again / len(grams)) if grams else None)


@given(ids)
def test_the_longest_run_is_the_longest_stretch_of_equals(tokens):
    stretches = [
        end - start
        for start in range(len(tokens))
        for end in range(start + 1, len(tokens) + 1)
        if len(set(tokens[start:end])) == 1
    ]
    assert longest_run(tokens) == max(stretches, default=0)


@given(ids)
def test_entropy_and_top_share_are_those_of_the_histogram(tokens):
    if not tokens:
        assert unigram_entropy(tokens) is None
        assert top_share(tokens) is None
        return
    share_V = np.bincount(tokens) / len(tokens)
    known_V = share_V[share_V > 0]
    assert unigram_entropy(tokens) == pytest.approx(float(np.sum(known_V * np.log(1 / known_V))), abs=1e-12)
    assert top_share(tokens) == share_V.max()


@given(st.lists(st.text(max_size=3), min_size=1, max_size=40))
def test_every_number_keeps_its_bounds(tokens):
    quality = text_quality(tokens)
    shares = (quality.distinct_1, quality.distinct_2, quality.distinct_3, quality.top_share)
    assert all(share is None or 0 < share <= 1 for share in shares)
    assert 1 <= quality.longest_run <= quality.length == len(tokens)
    assert quality.repeated_4 is None or 0 <= quality.repeated_4 < 1
    assert 0 <= quality.unigram_entropy <= math.log(len(tokens)) + 1e-12
    assert quality.longest_run <= round(quality.top_share * len(tokens))


@given(ids, st.permutations(range(5)))
def test_other_names_for_the_tokens_change_nothing_and_neither_does_reading_backwards(tokens, names):
    renamed = text_quality([f"token {names[token]}" for token in tokens])
    backwards = text_quality(tokens[::-1])
    for other in (renamed, backwards):
        for name, value in text_quality(tokens).as_dict().items():
            found = other.as_dict()[name]
            assert found is value is None or found == pytest.approx(value)  # sums in another order


def test_what_is_too_short_is_unknown_and_not_zero():
    assert text_quality([]).as_dict() == {
        "length": 0,
        "distinct_1": None,
        "distinct_2": None,
        "distinct_3": None,
        "longest_run": 0,
        "repeated_4": None,
        "unigram_entropy": None,
        "top_share": None,
    }
    two = text_quality([7, 7])
    assert (two.distinct_1, two.distinct_2, two.distinct_3, two.repeated_4) == (0.5, 1.0, None, None)
    assert math.copysign(1, two.unigram_entropy) == 1  # 0, not -0
    assert (two.unigram_entropy, two.top_share, two.longest_run) == (0.0, 1.0, 2)


def test_the_mean_leaves_out_the_texts_that_are_too_short_for_a_number():
    means = mean_quality([text_quality([1, 2]), text_quality([1]), text_quality([])])
    assert means["length"] == 1
    assert means["distinct_2"] == 1
    assert means["unigram_entropy"] == pytest.approx(math.log(2) / 2)
    assert means["repeated_4"] is None


def test_strings_split_in_words_and_signs_or_in_bytes():
    assert tokens_of("Don't stop, naïve 😀!") == ["Don", "'", "t", "stop", ",", "naïve", "😀", "!"]
    assert list(tokens_of("é", "bytes")) == [0xC3, 0xA9]
    assert len(tokens_of("\ud800", "bytes")) == 3  # a lone surrogate
    with pytest.raises(UserError, match="'letters'; choose one of words, bytes"):
        tokens_of("x", "letters")
    with pytest.raises(UserError, match="n is 0"):
        distinct_n([[1]], 0)
