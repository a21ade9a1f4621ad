"""Which answers of a conversation are learned: the last, or each with what comes before it; held, saved and streamed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from hf_difflm.data import DataOptions, PreparedData, load_tokenizer, prepare_data

pytestmark = pytest.mark.borders

BOS, EOS = 256, 257
Prepare = Callable[..., PreparedData]


def conversation(number: int, turns: int) -> dict[str, Any]:
    """``turns`` questions, each answered."""
    said: list[dict[str, Any]] = []
    for turn in range(turns):
        said += [
            {"role": "user", "content": f"{number}.{turn}?"},
            {"role": "assistant", "content": f"yes {number}.{turn}"},
        ]
    return {"messages": said}


ROWS = [conversation(n, 1 + n % 3) for n in range(30)]


def scored(row: Any) -> str:
    """The letters of a row that have labels, its EOS as a bar."""
    labels = np.asarray(row["labels"])
    return "".join("|" if token == EOS else chr(token) for token in labels[labels >= 0])


def context(row: Any) -> str:
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    return "".join(chr(token) for token in ids[labels < 0] if token < 256)


def as_jsonl(folder: Path) -> str:
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(folder / "chats.jsonl")


def as_saved(folder: Path) -> str:
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return str(folder / "saved")


def as_hub(folder: Path) -> str:
    """A folder that `datasets` reads as a data set of the Hub, by its configuration."""
    (folder / "hub").mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "hub" / "chats.parquet")
    (folder / "hub" / "README.md").write_text(
        '---\nconfigs:\n- config_name: c\n  data_files:\n  - split: train\n    path: "*.parquet"\n---\n'
    )
    return str(folder / "hub")


def prepared(dataset: str, **options: Any) -> PreparedData:
    config = "c" if dataset.endswith("hub") else None
    given = {
        "dataset": dataset,
        "dataset_config": config,
        "sft": True,
        "block_size": 160,
        "eval_fraction": 0.2,
        **options,
    }
    return prepare_data(DataOptions(**given), load_tokenizer("bytes"))


@pytest.mark.parametrize("write", [as_jsonl, as_saved, as_hub])
def test_each_answer_is_a_row_with_what_comes_before_it(tmp_path: Path, write: Callable[[Path], str]) -> None:
    data = prepared(write(tmp_path), sft_turns="all", test_fraction=0.0)
    rows = [*data.train, *data.eval]
    expected = {f" yes {n}.{turn}|" for n in range(30) for turn in range(1 + n % 3)}
    assert {scored(row) for row in rows} == expected
    assert len(rows) == len(expected)
    for row in rows:
        number, turn = scored(row).removeprefix(" yes ").removesuffix("|").split(".")
        asked = "".join(f"User: {number}.{t}?\nAssistant: yes {number}.{t}\n" for t in range(int(turn)))
        assert context(row) == f"{asked}User: {number}.{turn}?\nAssistant:"  # and nothing of what is said later
    assert "answers" in data.counts["train"].sentence(160)
    counts = data.counts["train"]
    assert counts.conversations + data.counts["eval"].conversations == 30
    assert "have several answers; each of their" in data.summary()


def test_answers_of_a_conversation_are_one_document_of_the_standard_error(tmp_path: Path) -> None:
    data = prepared(as_jsonl(tmp_path), sft_turns="all")
    documents = {}
    for row in data.eval:
        documents.setdefault(int(row["document_ids"][-1]), set()).add(scored(row).split(".")[0])
    assert len(documents) == data.counts["eval"].conversations < len(data.eval)
    assert all(len(names) == 1 for names in documents.values())


def test_the_last_alone_is_learned_by_default_and_the_others_are_told(tmp_path: Path) -> None:
    data = prepared(as_jsonl(tmp_path), test_fraction=0.0)
    assert {scored(row) for row in [*data.train, *data.eval]} == {f" yes {n}.{n % 3}|" for n in range(30)}
    assert "the last alone is scored" in data.summary()
    assert "(sft_turns all scores each)" in data.summary()


def test_empty_answers_and_those_without_weight_are_context(tmp_path: Path) -> None:
    row = conversation(0, 4)
    row["messages"][1]["content"] = ""
    row["messages"][3]["weight"] = 0
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [row, *ROWS]))
    data = prepared(str(path), sft_turns="all", test_fraction=0.0)
    found = [scored(one) for one in [*data.train, *data.eval] if "0.3?" in context(one) or "0.2?" in context(one)]
    assert sorted(text for text in found if text.startswith(" yes 0.")) == [" yes 0.2|", " yes 0.3|"]
    assert not any("weight" in context(one) for one in data.train)


def test_an_answer_of_another_weight_is_a_bad_row_under_all_alone(tmp_path: Path) -> None:
    row = conversation(99, 2)
    row["messages"][1]["weight"] = 0.5
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*ROWS, row]))
    assert prepared(str(path), test_fraction=0.0).train is not None
    with pytest.raises(ValueError, match=r"the weight of message 2 in a conversation is 0.5.*skip_bad_rows"):
        prepared(str(path), sft_turns="all", test_fraction=0.0)
    kept = prepared(str(path), sft_turns="all", test_fraction=0.0, skip_bad_rows=True)
    assert "left out 1 bad row of the" in kept.summary()


# Streams.


def prepared_beside(name: str, **options: Any) -> PreparedData:
    """With an evaluation set of its own."""
    evaluation = Path(name).parent / "eval.jsonl"
    evaluation.write_text("".join(json.dumps(conversation(n, 2)) + "\n" for n in range(100, 104)))
    return prepared(name, eval_dataset=str(evaluation), test_fraction=0.0, shuffle_window=8, **options)


def held_and_streamed(name: str, **options: Any) -> tuple[PreparedData, PreparedData]:
    return prepared_beside(name, **options), prepared_beside(name, streaming=True, **options)


@pytest.mark.parametrize("turns", ["last", "all"])
@pytest.mark.parametrize("write", [as_jsonl, as_hub])
def test_a_stream_has_the_rows_of_the_held_set_in_their_order_again_and_again(
    tmp_path: Path, write: Callable[[Path], str], turns: str
) -> None:
    held, streamed = held_and_streamed(write(tmp_path), sft_turns=turns)
    size = len(held.train)
    for index in range(size + 9):
        one, other = streamed.train[index], held.train[index % size]
        np.testing.assert_array_equal(one["input_ids"], other["input_ids"])
        np.testing.assert_array_equal(one["labels"], other["labels"])
    for one, other in zip(streamed.eval, held.eval, strict=True):
        np.testing.assert_array_equal(one["labels"], other["labels"])
    assert "conversations in the format messages" in streamed.summary()
    assert "conversations are read while training" in streamed.summary()


def test_a_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    name = as_hub(tmp_path)
    first = held_and_streamed(name, sft_turns="all")[1].train
    for index in (3, 17, 75, 130):
        first[index]
        fresh = held_and_streamed(name, sft_turns="all")[1].train
        fresh.restore(json.loads(json.dumps(first.position(index))))
        np.testing.assert_array_equal(fresh[index]["input_ids"], first[index]["input_ids"])


def test_a_stream_holds_out_the_conversations_that_it_evaluates_on(tmp_path: Path) -> None:
    data = prepared(as_jsonl(tmp_path), streaming=True, shuffle_window=8, eval_fraction=0.3, sft_turns="all")
    evaluated = {scored(row) for row in [*data.eval, *(data.test or [])]}
    trained = {scored(data.train[index]) for index in range(90)}
    assert evaluated
    assert not evaluated & trained


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q?", "completion": " yes"},
        {"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "yes"}]},
        {"instruction": "Q?", "output": "yes"},
        {"prompt": "Q?", "response": "yes"},
        {"question": "Q?", "answer": "yes"},
        {"text": "User: Q?\nAssistant: yes"},
    ],
)
def test_a_stream_reads_the_formats_that_a_held_set_has(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 20)
    held, streamed = held_and_streamed(str(tmp_path / "rows.jsonl"))
    np.testing.assert_array_equal(streamed.train[3]["labels"], held.train[3]["labels"])
    assert scored(streamed.train[3]) == " yes|"


def test_bad_and_long_conversations_of_a_stream_are_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Any] = [*ROWS[:5], {"body": "x"}, conversation(7, 12), {"messages": []}, *ROWS[5:]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"has neither messages nor .* or leave such rows out by skip_bad_rows"):
        prepared_beside(str(tmp_path / "rows.jsonl"), streaming=True).train[8]
    with caplog.at_level(logging.WARNING):
        streamed = prepared_beside(str(tmp_path / "rows.jsonl"), streaming=True, skip_bad_rows=True)
        found = [scored(streamed.train[index]) for index in range(30)]
    assert found == [f" yes {n}.{n % 3}|" for n in range(30)]
    assert sum("left out a bad row" in record.message for record in caplog.records) == 2
    assert sum("left out a long conversation: it takes" in record.message for record in caplog.records) == 1


def test_a_text_file_is_no_stream_of_conversations(tmp_path: Path, byte_level: PreTrainedTokenizerBase) -> None:
    (tmp_path / "a.txt").write_text("User: a\nAssistant: b")
    with pytest.raises(ValueError, match=r"a\.txt cannot be read as a stream: convert it to \.jsonl or \.parquet"):
        prepared(str(tmp_path / "a.txt"), streaming=True)
