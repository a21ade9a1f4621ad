"""The embedded conversations: each once, short, and their last answer follows from what was said before."""

from __future__ import annotations

import json

import yaml

from hf_difflm.data import load_tokenizer
from hf_difflm.data.conversations.answers import AnswerEncoder
from hf_difflm.data.conversations.chat_template import complete_chat_template
from hf_difflm.data.sources.small_talk import small_talk
from hf_difflm.recipes import FOLDER


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
            facts = (
                answer.rstrip(".").split()[2:] if answer.startswith(("It", "You")) else answer.rstrip(".").split()[1:]
            )
            assert facts
            assert all(fact in said for fact in facts), text
    assert asked > len(texts) / 2


def test_the_longest_conversation_fits_the_rows_of_its_recipe():
    tokenizer = load_tokenizer("bytes")
    complete_chat_template(tokenizer)
    longest = max((text for split in small_talk().values() for text in split["text"]), key=len)
    rows = yaml.safe_load((FOLDER / "small-talk.yaml").read_text())["block_size"]
    assert len(AnswerEncoder(tokenizer).encode(longest).ids) <= rows
