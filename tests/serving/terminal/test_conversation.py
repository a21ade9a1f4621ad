"""A history longer than the model takes loses its oldest turns, whole ones, and says so; nothing is cut inside a turn."""

from __future__ import annotations

import pytest

from hf_difflm.data import load_tokenizer
from hf_difflm.data.conversations.chat_template import PLAIN_TEMPLATE
from hf_difflm.data.text_ids import TextIds
from hf_difflm.errors import UserError
from hf_difflm.serving.terminal.conversation import Conversation, Turn


@pytest.fixture
def text():
    tokenizer = load_tokenizer("bytes")
    tokenizer.chat_template = PLAIN_TEMPLATE
    return TextIds.of(tokenizer, trained_here=True)


def test_all_turns_are_there_while_they_fit(text):
    conversation = Conversation(text, limit=None, system="Be brief.", turns=[Turn("a", "b"), Turn("c", "d")])
    asked = conversation.ask("e", room=10_000)
    assert asked.prompt == "System: Be brief.\nUser: a\nAssistant: b\nUser: c\nAssistant: d\nUser: e\nAssistant:"
    assert asked.left_out == 0
    assert asked.encoded.ids == [text.bos_token_id, *asked.prompt.encode()]


@pytest.mark.parametrize("room", [1, 20])
def test_the_oldest_turns_are_left_out_whole_and_the_system_message_stays(text, room):
    turns = [Turn(f"question {number}", "x" * 10) for number in range(9)]
    limit = 160
    asked = Conversation(text, limit, "Be brief.", turns).ask("now?", room)
    assert 0 < asked.left_out < 9
    kept = "".join(f"User: {turn.question}\nAssistant: {turn.answer}\n" for turn in turns[asked.left_out :])
    assert asked.prompt == f"System: Be brief.\n{kept}User: now?\nAssistant:"
    one_more = len(f"User: question 0\nAssistant: {'x' * 10}\n")
    assert limit - one_more < len(asked.encoded.ids) + room <= limit, "one more would not fit"


def test_a_message_that_does_not_fit_alone_is_a_sentence(text):
    conversation = Conversation(text, limit=64, turns=[Turn("a", "b")])
    assert conversation.ask("x" * 40, room=6).left_out == 1
    with pytest.raises(
        UserError, match="your message is 65 tokens as the model gets it, but the context has 64, 6 of them"
    ):
        conversation.ask("x" * 47, room=6)
    with pytest.raises(UserError, match="your message with the system message is"):
        Conversation(text, limit=64, system="y" * 40).ask("x" * 40, room=6)
