"""Conversations as people have them: each format becomes the conversation that it stands for."""

from __future__ import annotations

import json

import datasets
import pytest

from hf_difflm.data.conversations.rows import document_of_row, load_conversations
from hf_difflm.errors import UserError

pytestmark = pytest.mark.borders

ONE = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
WITH_SYSTEM = [{"role": "system", "content": "Be short."}, *ONE]
SAID = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
FORMATS = {
    "messages": ({"messages": ONE}, ONE),
    "messages of human and gpt": (
        {"messages": [{**m, "role": r} for m, r in zip(ONE, ("human", "gpt"), strict=True)]},
        ONE,
    ),
    "content as parts": (
        {"messages": [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in ONE]},
        ONE,
    ),
    "sharegpt": ({"conversations": SAID}, ONE),
    "sharegpt with system": ({"conversations": [{"from": "system", "value": "Be short."}, *SAID]}, WITH_SYSTEM),
    "sharegpt with a system column": ({"conversations": SAID, "system": "Be short."}, WITH_SYSTEM),
    "alpaca": ({"instruction": "2 + 2?", "input": "", "output": "4"}, ONE),
    "alpaca with input": (
        {"instruction": "Add.", "input": "2 + 2", "output": "4"},
        [{"role": "user", "content": "Add.\n\n2 + 2"}, ONE[1]],
    ),
    "prompt and response": ({"prompt": "2 + 2?", "response": "4"}, ONE),
    "question and answer": ({"question": "2 + 2?", "answer": "4"}, ONE),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_the_conversation_that_it_stands_for(name, tmp_path):
    row, messages = FORMATS[name]
    assert json.loads(document_of_row(row, "it")) == {"messages": messages}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "b.parquet")
    datasets.Dataset.from_list([row]).save_to_disk(tmp_path / "saved")
    for path in ("a.jsonl", "b.parquet", "saved"):
        corpus = load_conversations(str(tmp_path / path))
        texts = corpus.split("train")["text"][:]
        assert corpus.note.startswith("conversations in the format ")
        assert [json.loads(text) for text in texts] == [{"messages": messages}]


def test_an_unknown_format_names_those_there_are():
    with pytest.raises(UserError, match=r"its columns are ask, tell.*ShareGPT \(conversations\), alpaca"):
        document_of_row({"ask": "a", "tell": "b"}, "line 1 of x")
    with pytest.raises(UserError, match="conversations in line 1 of x is no list of objects with from and value"):
        document_of_row({"conversations": "hello"}, "line 1 of x")
