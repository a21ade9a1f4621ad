"""Conversations of people as prompts: what somebody said is text, whatever it looks like."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...data.conversations.chat_template import up_to_answer
from ...data.conversations.messages import MESSAGES
from ...data.text_ids import TextIds, control_ids
from .chat_prompts import chat_prompt
from .holes import PromptIds

_PRIVATE = range(0xE000, 0xF900)  # no chat template writes these characters


def spoken_prompt(text: TextIds, conversation: Mapping[str, Any]) -> tuple[str, PromptIds]:
    """Return a conversation as text up to where the answer begins, and as the model gets it.

    The control tokens that the chat template writes are these tokens, as in training; the name of one inside a message is
    letters, so that nobody ends a turn or begins one by typing.

    Args:
        text: how text becomes ids for the model.
        conversation: ``messages`` whose contents are text, and what else the template takes.

    Raises:
        UserError: there is no chat template, or it refuses the conversation.
    """
    messages = conversation[MESSAGES]
    said = "\n".join(message["content"] for message in messages)
    tokens = text.tokenizer.convert_ids_to_tokens(sorted(control_ids(text.tokenizer)))
    names = sorted((name for name in tokens if name and name in said), key=len, reverse=True)
    if not names:
        return chat_prompt(text, conversation)
    free = (chr(code) for code in _PRIVATE if chr(code) not in said)
    stand_ins = dict(zip(names, free, strict=False))
    hide = re.compile("|".join(map(re.escape, names)))
    hidden = [
        {**message, "content": hide.sub(lambda found: stand_ins[found[0]], message["content"])} for message in messages
    ]
    asked = up_to_answer(text.tokenizer, {**conversation, MESSAGES: hidden})
    name_of = {stand_in: name for name, stand_in in stand_ins.items()}
    ids: list[int] = []
    for piece in re.split(f"([{''.join(name_of)}])", asked):
        if piece:
            ids += text.letters(name_of[piece]) if piece in name_of else text.written(piece)
    return "".join(name_of.get(char, char) for char in asked), PromptIds(text.begun(ids))
