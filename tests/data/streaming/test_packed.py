"""Streams of documents that share rows: those of the data when it is held, resumed anywhere, prepared ahead."""

from __future__ import annotations

import json

import numpy as np
import pytest
from streams import stream, texts, write_jsonl

from hf_difflm.data import DataOptions, prepare_data
from hf_difflm.data.prepared_folder import load_prepared, write_prepared
from hf_difflm.errors import UserError


@pytest.fixture
def evaluation(tmp_path) -> str:
    return str(write_jsonl(tmp_path / "evaluation.jsonl", ["something else"] * 20))


def pieces_of(rows) -> dict[int, list[int]]:
    found = {}
    for row in rows:
        for number in np.unique(row["piece_ids"]):
            here = row["piece_ids"] == number
            assert row["labels"][here].tolist() == [-100, *row["input_ids"][here][1:]]
            found[int(number)] = row["input_ids"][here].tolist()
    return found


@pytest.mark.parametrize("how", ["documents", "best-fit"])
@pytest.mark.parametrize("chunk", [1, 50, 4096])
def test_pieces_are_those_of_the_same_data_held_pass_after_pass(tmp_path, byte_level, evaluation, how, chunk):
    path = write_jsonl(tmp_path / "d.jsonl", texts(60))
    options = {"eval_dataset": evaluation, "packing": how}
    held = prepare_data(DataOptions(dataset=str(path), block_size=16, **options), byte_level)
    data = stream(path, byte_level, tokens_per_chunk=chunk, shuffle_window=7, **options)
    once = pieces_of(held.train[number] for number in range(len(held.train)))
    found = pieces_of(data.train[number] for number in range(3 * len(held.train)))
    assert len(found) > 2 * len(once)
    for number, ids in found.items():
        assert ids == once[number % len(once)]
    rows = [data.train[number] for number in range(2 * len(held.train))]
    assert all(len(row["input_ids"]) <= 16 for row in rows)
    if how == "best-fit":
        filled = sum(len(row["input_ids"]) for row in rows) / (16 * len(rows))
        assert filled > 0.95


@pytest.mark.parametrize("how", ["documents", "best-fit"])
def test_another_process_goes_on_from_a_position(tmp_path, byte_level, evaluation, how):
    path = write_jsonl(tmp_path / "d.jsonl", texts(150))
    options = {"eval_dataset": evaluation, "packing": how, "shuffle_window": 10, "tokens_per_chunk": 40}
    first = stream(path, byte_level, **options).train
    rows = [first[number] for number in range(120)]
    position = json.loads(json.dumps(first.position(95)))
    assert position["window"] == 9
    again = stream(path, byte_level, **options).train
    again.restore(position)
    for number in range(90, 120):
        for name, values in rows[number].items():
            assert again[number][name].tolist() == values.tolist()


def test_a_prepared_folder_gives_the_rows_back(tmp_path, byte_level, evaluation):
    path = write_jsonl(tmp_path / "d.jsonl", texts(60))
    for streaming in (False, True):
        options = DataOptions(
            dataset=str(path), block_size=16, eval_dataset=evaluation, packing="best-fit", streaming=streaming
        )
        data = prepare_data(options, byte_level)
        folder = tmp_path / f"prepared-{streaming}"
        counts = write_prepared(data, folder, options, byte_level)
        again = load_prepared(DataOptions(dataset=str(folder), block_size=16, packing="best-fit"), byte_level)
        assert again.counts == counts
        held = prepare_data(
            DataOptions(dataset=str(path), block_size=16, eval_dataset=evaluation, packing="best-fit"), byte_level
        )
        whole = pieces_of(held.train[number] for number in range(len(held.train)))
        assert pieces_of(again.train[number] for number in range(len(again.train))) == whole
        assert counts["train"].pieces == len(whole)
        assert counts["train"].tokens == sum(len(ids) - 1 for ids in whole.values())
        for one, other in zip(again.eval, data.eval, strict=True):
            assert {name: value.tolist() for name, value in one.items()} == {
                name: value.tolist() for name, value in other.items()
            }
        with pytest.raises(UserError, match="prepared with packing best-fit, not concat: set packing to best-fit"):
            load_prepared(DataOptions(dataset=str(folder), block_size=16), byte_level)


def test_answers_of_a_stream_share_rows(tmp_path, byte_level):
    rows = [{"prompt": f"{n} and {n}?", "completion": f"{2 * n}"} for n in range(80)]
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"dataset": str(path), "sft": True, "streaming": True, "block_size": 64, "max_train_blocks": 30}
    alone = prepare_data(DataOptions(**options), byte_level).train
    packed = prepare_data(DataOptions(**options, packing="documents"), byte_level).train
    found = [packed[number] for number in range(10)]
    row = found[0]
    for number in np.unique(row["piece_ids"]):
        here = row["piece_ids"] == number
        assert row["input_ids"][here].tolist() == alone[int(number)]["input_ids"].tolist()
        assert row["labels"][here].tolist() == list(alone[int(number)]["labels"])
    assert len(np.unique(row["piece_ids"])) > 1


def test_a_stream_is_not_packed_as_in_the_paper(tmp_path, byte_level, evaluation):
    path = write_jsonl(tmp_path / "d.jsonl", texts(10))
    with pytest.raises(UserError, match="which a stream does not; set packing to concat"):
        stream(path, byte_level, eval_dataset=evaluation, packing="mdlm")
