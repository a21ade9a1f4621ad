"""What is streamed never has to be taken back, and together it is the text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.serving.api.growing_text import LENGTH, STOP, GrowingText

END = 300


def decode(ids):
    return bytes(ids).decode("utf-8", "replace")


def grown(ids, stops=(), strip=False, jumps=1):
    """The texts after each step, and the text itself."""
    text, seen = GrowingText(decode, {END}, stops, strip), []
    for size in [*range(0, len(ids), jumps), len(ids)]:
        text.take(ids[:size], complete=size == len(ids))
        seen.append(text.text)
        if text.reason is not None:
            break
    return seen, text


@given(
    st.lists(st.sampled_from([*b"ab \n", 0xE2, 0x96, 0x92, 0xF0, END]), max_size=24),
    st.lists(st.sampled_from(["ab", "aab", "b b", "\n"]), max_size=2),
    st.booleans(),
    st.integers(1, 5),
)
def test_each_text_begins_with_the_one_before_and_the_last_is_that_of_all_at_once(ids, stops, strip, jumps):
    seen, text = grown(ids, stops, strip, jumps)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(seen))
    whole = GrowingText(decode, {END}, stops, strip)
    whole.take(ids, complete=True)
    assert (text.text, text.reason) == (whole.text, whole.reason)


def test_half_a_character_and_what_may_become_a_stop_string_are_held_back():
    assert grown([*b"a", 0xE2, 0x96, 0x92])[0] == ["", "a", "a", "a", "a▒"]
    assert grown(list(b"aEEND.."), ["END"])[0] == ["", "a", "a", "aE", "aE", "aE"]
    assert grown(list(b" a b  "), strip=True)[0] == ["", "", "a", "a", "a b", "a b", "a b"]


@pytest.mark.parametrize(
    ("ids", "stops", "text", "reason", "tokens"),
    [
        ([*b"abc"], (), "abc", LENGTH, 3),
        ([*b"abc", END, *b"d"], (), "abc", STOP, 4),
        ([*b"abcd"], ("c", "bc"), "a", STOP, 4),
        ([END], (), "", STOP, 1),
        ([], (), "", LENGTH, 0),
    ],
)
def test_why_a_text_ended_and_how_many_tokens_it_took(ids, stops, text, reason, tokens):
    found = GrowingText(decode, {END}, stops, strip=False)
    found.take(ids, complete=True)
    assert (found.text, found.reason, found.tokens) == (text, reason, tokens)
