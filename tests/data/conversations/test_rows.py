"""Conversations from every kind of source become the same documents; what cannot be learned from is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_difflm.data.conversations.rows import document_of_row, load_conversations
from hf_difflm.errors import UserError

CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4 – naïve"}]}
TEXT = {"prompt": "2 + 2 =", "completion": " 4"}


def texts(path: Path) -> list[Any]:
    return [json.loads(text) for text in load_conversations(str(path)).split("train")["text"]]


@pytest.mark.parametrize("row", [CHAT, TEXT], ids=["messages", "prompt-completion"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "saved"])
def test_a_row_is_the_same_document_from_every_kind_of_file(tmp_path: Path, row: dict[str, Any], suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    rows = datasets.Dataset.from_list([{**row, "id": 1}] * 2)
    if suffix == "saved":
        rows.save_to_disk(str(path))
    elif suffix == "parquet":
        rows.to_parquet(str(path))
    else:
        lines = [json.dumps(row)] * 2
        path.write_text("\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]")
    assert texts(path) == [row, row]


def test_csv_has_prompts_and_completions(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion", "source"])
        writer.writeheader()
        writer.writerow({**TEXT, "source": "me"})
    assert texts(path) == [TEXT]


def test_splits_of_a_folder_and_message_lists_as_prompt_and_completion(tmp_path: Path) -> None:
    parts = {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}
    (tmp_path / "train.jsonl").write_text(json.dumps(parts))
    (tmp_path / "validation.jsonl").write_text(json.dumps(TEXT))
    corpus = load_conversations(str(tmp_path))
    assert {split: [json.loads(text) for text in rows["text"]] for split, rows in corpus.splits.items()} == {
        "train": [CHAT],
        "validation": [TEXT],
    }


def test_sums_are_right_and_no_pair_is_in_two_splits() -> None:
    corpus = load_conversations("sums")
    seen: set[str] = set()
    for split, size in (("train", 9000), ("validation", 500), ("test", 500)):
        rows = [json.loads(text)["messages"] for text in corpus.split(split)["text"]]
        assert len(rows) == size
        for question, answer in rows:
            first, second = question["content"].removesuffix("?").split(" + ")
            assert int(answer["content"]) == int(first) + int(second)
            seen.add(question["content"])
    assert len(seen) == 10_000


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"body": "a"}, "line 1 of PATH has neither messages nor a prompt and a completion, its columns are body"),
        ({"text": 3}, "column 'text' in line 1 of PATH holds int, not text"),
        ({"mesages": []}, "did you mean 'mesages'?"),
        ({"prompt": "a"}, "has neither messages nor a prompt and a completion, its columns are prompt; rename them"),
        ({"prompt": "a", "completion": " \n"}, "the completion in line 1 of PATH is empty"),
        ({"prompt": "a", "completion": 3}, "column 'completion' in line 1 of PATH holds int"),
        ({"messages": []}, "are no list of objects"),
        ({"messages": [{"role": "user"}]}, "message 1 in line 1 of PATH has no role and content that are text"),
        ({"messages": CHAT["messages"][:1]}, "the last message in line 1 of PATH is of the user"),
        ({"messages": CHAT["messages"][1:]}, "nothing comes before the answer in line 1 of PATH"),
        ({"messages": [CHAT["messages"][0], {"role": "assistant", "content": ""}]}, "is empty"),
        (["a"], "line 1 of PATH holds list"),
        ({"prompt": "\ud800", "completion": "a"}, "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_one_sentence(tmp_path: Path, row: Any, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(UserError) as refusal:
        load_conversations(str(path))
    sentence = str(refusal.value)
    assert says.replace("PATH", str(path)) in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "text", "has no columns; give conversations as .jsonl"),
        ("a.jsonl", "", "holds no conversation"),
        ("a.jsonl", "{", "is not valid JSON"),
        ("a.parquet", "no parquet", "as .parquet"),
    ],
)
def test_files_that_hold_none_are_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        load_conversations(str(tmp_path / name))


def test_missing_columns_of_a_data_set_are_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"asked": ["a"], "told": ["b"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match="its columns are asked, told"):
        load_conversations(str(tmp_path / "saved"))


def test_sums_without_sft_say_what_they_need() -> None:
    from hf_difflm.data.sources.corpora import load_corpus

    with pytest.raises(UserError, match="add --sft"):
        load_corpus("sums", block_size=8)


def test_a_row_of_nulls_beside_the_other_form_is_read_by_what_it_has() -> None:
    assert json.loads(document_of_row({"messages": None, **TEXT}, "row 1")) == TEXT


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]


@pytest.mark.borders
@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "saved"])
def test_tools_calls_and_reasoning_stay_in_the_conversation(tmp_path: Path, suffix: str) -> None:
    text = {**CALL, "function": {"name": "add", "arguments": json.dumps(CALL["function"]["arguments"])}}
    said = [
        {"role": "user", "content": [{"type": "text", "text": "2 + "}, {"type": "text", "text": "2?"}]},
        {"role": "assistant", "content": None, "tool_calls": [text if suffix == "jsonl" else CALL]},
        {"role": "tool", "name": "add", "content": "4"},
        {"role": "assistant", "content": "4", "reasoning_content": "It says 4."},
    ]
    if suffix != "jsonl":  # one type a column
        said[0]["content"] = "2 + 2?"
    row = {"messages": said, "tools": TOOLS}
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    elif suffix == "parquet":
        datasets.Dataset.from_list([row]).to_parquet(str(path))
    else:
        datasets.Dataset.from_list([row]).save_to_disk(str(path))
    (found,) = texts(path)
    assert found["messages"] == [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "4", "name": "add"},
        {"role": "assistant", "content": "4", "reasoning_content": "It says 4."},
    ]
    assert [tool["function"]["name"] for tool in found["tools"]] == ["add"]


@pytest.mark.borders
@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "saved"])
def test_columns_that_no_document_has_are_named_beside_it(tmp_path: Path, suffix: str) -> None:
    rows = [{**CHAT, "id": 1, "source": "x", "weight": 1.0}, {**CHAT, "id": 2, "source": "y", "weight": 1.0}]
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    assert load_conversations(str(path)).splits["train"]["unused"][:] == [["id", "source"]] * 2


@pytest.mark.borders
@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**CHAT, "label": False}, "the label of line 1 of PATH is false, so its answer is one to avoid"),
        ({**TEXT, "weight": 0.5}, "the weight of line 1 of PATH is 0.5, but every answer counts the same"),
        (
            {"messages": [CHAT["messages"][0], {**CHAT["messages"][1], "weight": 0}]},
            "the weight of message 2 in line 1 of PATH is 0",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, CHAT["messages"][1]]},
            "message 1 in line 1 of PATH has a part of type 'image'",
        ),
        ({**CHAT, "tools": "add"}, "the tools in line 1 of PATH are no list of objects"),
        (
            {"messages": [CHAT["messages"][0], {"role": "assistant", "tool_calls": [{}]}]},
            "without the name of a function",
        ),
    ],
)
def test_what_would_be_learned_as_something_else_is_refused(tmp_path: Path, row: Any, says: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(UserError) as refusal:
        load_conversations(str(path))
    assert says.replace("PATH", str(path)) in str(refusal.value)
