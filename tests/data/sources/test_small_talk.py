"""The embedded conversations: each once, short, and their last answer follows from what was said before."""

from __future__ import annotations

import json

from hf_difflm.data import DataOptions, load_tokenizer, prepare_data
from hf_difflm.data.sources.small_talk import small_talk


def test_conversations_are_different_and_answers_follow_from_what_was_said():
    splits = small_talk()
    texts = [text for split in splits.values() for text in split["text"]]
    assert len(set(texts)) == len(texts) > 3000
    asked = 0
    for text in texts:
        messages = json.loads(text)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        said = " ".join(message["content"] for message in messages[:-2:2])
        question, answer = (message["content"] for message in messages[-2:])
        if question.endswith("?"):
            asked += 1
            facts = answer.rstrip(".").split()[2:] if answer.startswith(("It", "You")) else answer.rstrip(".").split()[1:]
            assert facts
            assert all(fact in said for fact in facts), text
    assert asked > len(texts) / 2


def test_every_conversation_fits_the_rows_of_its_recipe():
    options = DataOptions(dataset="small-talk", tokenizer="bytes", block_size=128, sft=True, sft_fill_eos=True)
    data = prepare_data(options, load_tokenizer("bytes"))
    assert len(data.train) == len(small_talk()["train"])
    assert {len(row) for row in data.train["input_ids"]} == {128}
