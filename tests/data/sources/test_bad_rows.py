"""Rows that cannot be used: all counted, the first few listed with file and line, left out on request."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.errors import UserError

pytestmark = pytest.mark.borders

BAD = ["{broken", '{"text": 7}', '{"body": "x"}', "[1]", '{"text": "\\ud800"}', "\xff", '{"text": {}}']


@pytest.fixture
def mixed_rows(tmp_path: Path) -> Path:
    """Lines 1 to 30 are text, with bad ones after the tenth."""
    good = [json.dumps({"text": f"document {n:02} " * 4}) for n in range(30)]
    lines = [line.encode() for line in good[:10]] + [line.encode("latin-1") for line in BAD]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, *(line.encode() for line in good[10:])]) + b"\n")
    return tmp_path / "a.jsonl"


def _prepare(path: Path, **options):
    return prepare_data(DataOptions(dataset=str(path), block_size=8, **options), load_tokenizer("bytes"))


def test_bad_rows_are_counted_and_the_first_few_named(mixed_rows):
    with pytest.raises(UserError) as refused:
        _prepare(mixed_rows)
    said = str(refused.value)
    assert said.startswith(f"7 rows of {mixed_rows} cannot be used: line 11 of {mixed_rows} is not valid JSON")
    assert f"line 12 of {mixed_rows}" in said.replace("column 'text' in ", "")
    assert "and 2 more" in said
    assert "skip_bad_rows" in said


def test_bad_rows_are_left_out_on_request_and_the_note_stays_where_the_rows_are_cached(mixed_rows):
    for _ in range(2):
        data = _prepare(mixed_rows, skip_bad_rows=True)
        assert sum(count.documents for count in data.counts.values()) == 30
        assert f"left out 7 bad rows of {mixed_rows}: line 11 of" in data.summary()


def test_one_bad_row_is_told_as_it_is_and_rows_that_are_all_bad_are_a_wrong_set(tmp_path):
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n{"text": 1}\n')
    with pytest.raises(UserError, match=r"line 2 .* holds int, not text.* or leave such rows out by skip_bad_rows"):
        _prepare(tmp_path / "one.jsonl")
    (tmp_path / "all.jsonl").write_text('{"body": "a"}\n' * 300)
    with pytest.raises(UserError, match=r"line 1 of .* has no column 'text', its columns are body"):
        _prepare(tmp_path / "all.jsonl", skip_bad_rows=True)


def test_a_stream_leaves_out_the_same_rows(mixed_rows, caplog):
    with pytest.raises(UserError, match=r"is not valid JSON.*or leave such rows out by skip_bad_rows"):
        _prepare(mixed_rows, streaming=True, max_train_blocks=20)
    with caplog.at_level(logging.WARNING):
        data = _prepare(mixed_rows, streaming=True, max_train_blocks=120, skip_bad_rows=True, eval_fraction=0.2)
    told = [record.message for record in caplog.records if "left out a bad row" in record.message]
    assert len(set(told)) == 5
    assert len(told) <= 10  # once for each reader of the text, not once a pass
    rows = [data.train[i]["input_ids"][1:] for i in range(120)]
    text = bytes(np.concatenate(rows).clip(0, 255).astype(np.uint8).tolist()).decode("latin-1")
    assert "document 28" in text  # behind the bad rows
    assert not any(word in text for word in ("broken", "body"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_bad_conversations_are_counted_and_left_out_in_the_same_way(tmp_path, kind):
    import datasets

    def row(n, answer):
        return {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": answer}]}

    rows = [row(n, "" if n in (3, 5) else "yes") for n in range(40)]
    path = tmp_path / f"chats.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    options = {"dataset": str(path), "sft": True, "block_size": 64}
    with pytest.raises(UserError, match=r"2 rows of .* cannot be used: the last message in (line|row) 4 of"):
        prepare_data(DataOptions(**options), load_tokenizer("bytes"))
    data = prepare_data(DataOptions(**options, skip_bad_rows=True), load_tokenizer("bytes"))
    assert sum(count.documents for count in data.counts.values()) == 38
    assert "left out 2 bad rows" in data.summary()


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_bad_rows_of_csv_are_counted_and_left_out_too(tmp_path, name):
    import gzip

    good = [f"document {n:02} of some words,{n}" for n in range(30)]
    lines = [line.encode() for line in good]
    lines[4:4] = [b"one, two, three", b"\xff\xfe,1", b"alone"]
    content = b"text,n\n" + b"\n".join(lines) + b"\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(UserError) as refused:
        _prepare(path)
    said = str(refused.value)
    assert said.startswith(f"3 rows of {path} cannot be used: row 5 of {path} has 3 fields and the header 2")
    assert f"row 6 of {path} is not UTF-8 text" in said
    assert f"row 7 of {path} has 1 fields and the header 2" in said
    data = _prepare(path, skip_bad_rows=True)
    assert sum(count.documents for count in data.counts.values()) == 30
    assert f"left out 3 bad rows of {path}" in data.summary()


def test_bad_rows_of_a_streamed_hub_set_are_told_with_their_number_and_left_out(tmp_path, caplog):
    """Conversations: in a column of text each value is text, or the set is refused at once."""
    import datasets

    def row(n, answer):
        return {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": answer}]}

    rows = [row(n, "" if n in (3, 5) else f"yes {n}") for n in range(40)]
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "hub" / "rows.parquet", batch_size=7)
    (tmp_path / "hub" / "README.md").write_text(
        '---\nconfigs:\n- config_name: c\n  data_files:\n  - split: train\n    path: "*.parquet"\n---\n'
    )
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row(n, "no")) + "\n" for n in range(100, 104)))
    options = {
        "dataset": str(tmp_path / "hub"),
        "dataset_config": "c",
        "eval_dataset": str(tmp_path / "eval.jsonl"),
        "sft": True,
        "streaming": True,
        "block_size": 64,
        "shuffle_window": 8,
    }
    with pytest.raises(UserError) as refused:
        prepare_data(DataOptions(**options), load_tokenizer("bytes")).train[3]
    assert str(refused.value).startswith("the last message in row 4 of")  # and not that reading broke off
    assert "leave such rows out by skip_bad_rows" in str(refused.value)
    with caplog.at_level(logging.WARNING):
        train = prepare_data(DataOptions(**options, skip_bad_rows=True), load_tokenizer("bytes")).train
        found = [train[index] for index in range(100)]  # more than two passes
    told = [record.message for record in caplog.records if "left out a bad row" in record.message]
    assert len(told) == 2
    assert f"row 6 of {str(tmp_path / 'hub')!r}" in told[1]
    answers = {bytes(r["labels"][r["labels"] >= 0][:-1].tolist()).decode() for r in found}
    assert answers == {f" yes {n}" for n in range(40) if n not in (3, 5)}
