from __future__ import annotations

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.data.sources.documents import Documents, cut_by_position, drop_shared, hash_documents, hold_out
from hf_difflm.errors import UserError

TEXTS = st.lists(st.text("abc", min_size=1, max_size=2), min_size=2, max_size=30).filter(
    lambda texts: len(set(texts)) > 1
)


def documents(texts: list[str | None]) -> Documents:
    return hash_documents(datasets.Dataset.from_dict({"text": texts}), "texts")


def texts_of(some: Documents) -> list[str]:
    return list(some.dataset["text"])


@settings(max_examples=30, deadline=None)
@given(TEXTS, st.floats(0.01, 0.99), st.sampled_from([0.0, 0.05, 0.5]))
def test_held_out_documents_are_never_training_documents_and_none_is_lost(
    texts: list[str], fraction: float, for_test: float
) -> None:
    train, evaluation, test = hold_out(documents(texts), fraction, for_test)
    tested = texts_of(test) if test is not None else []
    sides = [set(texts_of(train)), set(texts_of(evaluation)), set(tested)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(texts))
    assert sorted(texts_of(train) + texts_of(evaluation) + tested) == sorted(texts)
    distinct = len(set(texts))
    assert len(sides[1]) == min(max(1, round(fraction * distinct)), distinct - 1)
    assert (test is None) == (for_test == 0 or distinct - 1 - len(sides[1]) == 0)
    assert texts_of(hold_out(documents(texts), fraction)[1]) == texts_of(evaluation)


@settings(max_examples=20, deadline=None)
@given(TEXTS, st.randoms())
def test_which_documents_are_held_out_does_not_depend_on_their_order(texts: list[str], random: object) -> None:
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    once, again = (set(texts_of(hold_out(documents(order), 0.3)[1])) for order in (texts, shuffled))
    assert once == again


def test_empty_documents_are_left_out_and_counted() -> None:
    some = documents(["a", "", None, "bé", ""])
    assert (texts_of(some), some.num_bytes.tolist(), some.num_empty) == (["a", "bé"], [1, 3], 3)


def test_the_fingerprint_follows_text_and_order() -> None:
    same = documents(["a", "b"]).fingerprint
    assert documents(["a", "", "b"]).fingerprint == same
    assert len({same, documents(["b", "a"]).fingerprint, documents(["a", "c"]).fingerprint}) == 3


@pytest.mark.parametrize(("texts", "sentence"), [([], "texts is empty"), (["", None], "only empty documents")])
def test_no_text_at_all_is_refused(texts: list[str | None], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        documents(texts)


def test_text_that_is_no_utf8_is_refused() -> None:
    raw = pa.array([b"good", b"\xff\xfe"], pa.binary())
    noise = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    with pytest.raises(UserError, match="text that is not UTF-8"):
        hash_documents(datasets.Dataset(pa.table({"text": noise})), "texts")


def test_a_lone_document_is_cut_by_position() -> None:
    train, evaluation, test = cut_by_position(documents(["0123456789"]), 0.1, "it")
    assert (texts_of(train), texts_of(evaluation), test) == (["012345678"], ["9"], None)
    train, evaluation, test = cut_by_position(documents(["0123456789"]), 0.1, "it", 0.2)
    assert [texts_of(part) for part in (train, test, evaluation)] == [["0123456"], ["78"], ["9"]]


def test_a_lone_document_of_one_character_cannot_be_cut() -> None:
    with pytest.raises(UserError, match="one document of 1 characters"):
        cut_by_position(documents(["x"]), 0.1, "it")


def test_training_documents_that_are_evaluated_are_dropped() -> None:
    kept = drop_shared(documents(["a", "b", "a", "c"]), documents(["a", "d"]))
    assert texts_of(kept) == ["b", "c"]
