"""Mixtures: exact shares of the tokens, no document trained on by one set and evaluated on by another, exact resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from streams import texts, write_jsonl

from hf_difflm.data import DataOptions, prepare_data
from hf_difflm.data.options import mixture_of, names_of
from hf_difflm.data.streaming.mixed_blocks import blocks_of, cycle_of
from hf_difflm.errors import UserError

pytestmark = pytest.mark.borders


@pytest.fixture
def two(tmp_path: Path) -> str:
    """Two sets whose letters tell them apart, one document in both."""
    shared = "AaBb" * 10
    write_jsonl(tmp_path / "a.jsonl", [f"A{n:04}" * 5 for n in range(100)] + [shared])
    write_jsonl(tmp_path / "b.jsonl", [f"B{n:04}" * 9 for n in range(300)] + [shared])
    return f"{tmp_path}/a.jsonl=0.75 {tmp_path}/b.jsonl=0.25"


def _mixed(dataset, tokenizer, need_train=True, **options):
    settings = {"dataset": dataset, "block_size": 16, "shuffle_window": 8} | options
    return prepare_data(DataOptions(**settings), tokenizer, need_train=need_train)


def _of(row) -> str:
    found = set(bytes(row["input_ids"][1:].astype(np.uint8).tolist()).decode("latin-1")) & {"A", "B"}
    return "".join(sorted(found))


def test_shares_are_thousandths_and_what_is_none_is_refused(tmp_path):
    assert mixture_of("a.jsonl=0.7 b/=0.3") == {"a.jsonl": 7, "b/": 3}
    assert mixture_of("my file.txt=2 b=1") == {"my file.txt": 667, "b": 333}
    assert (mixture_of("a.jsonl"), names_of("a.jsonl")) == ({}, ["a.jsonl"])
    (tmp_path / "lr=0.5").mkdir()
    assert mixture_of(str(tmp_path / "lr=0.5")) == {}
    for wrong in ("a=0.5 b", "a=0.5 a=0.5", "a=1 b=0.0001", "a=0 b=0"):
        with pytest.raises(UserError):
            mixture_of(wrong)
    order = cycle_of([7, 3])
    assert [int((order == source).sum()) for source in (0, 1)] == [7, 3]
    assert [blocks_of(0, [7, 3], n) for n in (0, 10, 1000)] == [0, 7, 700]


def test_a_held_mixture_has_the_shares_of_the_tokens_and_evaluates_on_what_none_of_its_sets_trains_on(two, byte_level):
    data = _mixed(two, byte_level)
    counts = [sum(_of(row) == letter for row in data.train) for letter in "AB"]
    assert counts[0] / sum(counts) == pytest.approx(0.75, abs=0.01)
    assert data.mixture == {name: share for name, share in zip(names_of(two), (0.75, 0.25), strict=True)}
    assert {_of(row) for row in data.eval} >= {"A", "B"}
    documents = [set(np.asarray(row["document_ids"])) - {-1} for row in data.eval]
    numbers = set().union(*documents)
    assert numbers == set(range(len(numbers)))  # of both sets, numbered once
    assert [row["index"] for row in data.eval] == list(range(len(data.eval)))
    assert "75 % of the tokens" in data.summary()


@pytest.mark.parametrize("streaming", [False, True])
def test_what_one_set_evaluates_on_no_other_trains_on(tmp_path, byte_level, streaming):
    both = [f"{n:03}" * 6 for n in range(60)]
    write_jsonl(tmp_path / "train.jsonl", both)
    folder = tmp_path / "with"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", texts(80))
    write_jsonl(folder / "validation.jsonl", both[:20])
    dataset = f"{folder}=1 {tmp_path}/train.jsonl=1"
    data = _mixed(
        dataset,
        byte_level,
        streaming=streaming,
        max_train_blocks=40,
        eval_fraction=0.2,
        test_fraction=0.0,
        max_eval_blocks=8,
    )
    seen = "".join(
        bytes(data.train[i]["input_ids"][1:].astype(np.uint8).tolist()).decode("latin-1")
        for i in range(len(data.train))
    )
    assert not [text for text in both[:20] if text in seen]
    assert any(text[:9] in seen for text in both[20:])


def test_a_streamed_mixture_has_exact_shares_in_each_window_and_goes_on_with_the_same_blocks(two, byte_level):
    def opened():
        return _mixed(two, byte_level, streaming=True, max_eval_blocks=8).train

    stream = opened()
    assert stream.window_size == 8
    rows = [stream[i]["input_ids"].tolist() for i in range(400)]  # a is read more than once
    for start in range(0, 400, 8):
        of = [_of({"input_ids": np.array(row)}) for row in rows[start : start + 8]]
        assert (sum("A" in one for one in of), sum(one == "B" for one in of)) == (6, 2)
    position = stream.position(203)
    again = opened()
    again.restore(position)
    assert [again[i]["input_ids"].tolist() for i in range(200, 260)] == rows[200:260]
    other = _mixed(
        two.replace("0.75", "0.5").replace("0.25", "0.5"), byte_level, streaming=True, max_eval_blocks=8
    ).train
    with pytest.raises(UserError, match="the mixture has changed"):
        other.restore(position)


def test_the_test_of_a_mixture_is_found_by_its_name(two, byte_level):
    data = _mixed(two, byte_level, max_eval_blocks=8)
    again = _mixed(two, byte_level, need_train=False, eval_split="test", max_eval_blocks=8)
    assert [row["input_ids"].tolist() for row in again.eval] == [row["input_ids"].tolist() for row in data.test]


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("markov=1 python-docs=1", {}, "markov stands alone"),
        ("{two}", {"sft": True}, "conversations are not mixed"),
        ("{two}", {"dataset_config": "x"}, "dataset_config is of one data set"),
    ],
)
def test_what_cannot_be_mixed_is_refused(two, byte_level, dataset, options, words):
    with pytest.raises(UserError, match=words):
        _mixed(dataset.format(two=two), byte_level, **options)
