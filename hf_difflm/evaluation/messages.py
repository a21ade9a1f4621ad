"""Messages of a conversation that is to be answered: what a JSON value must hold."""

from __future__ import annotations

from typing import Any

from ..errors import UserError

MESSAGES = "messages"
USER, ASSISTANT = "user", "assistant"

Messages = list[dict[str, str]]
"""Objects with ``role`` and ``content``."""


def as_turn(text: str) -> Messages:
    """Return a text as a conversation of one message, the user's."""
    return [{"role": USER, "content": text}]


def checked_messages(value: Any, place: str) -> Messages:
    """Return the messages of a JSON value, roles and contents alone.

    Args:
        value: a list of objects with ``role`` and ``content``.
        place: where it stands, for the sentence.

    Raises:
        UserError: it is no such list, or ends with an answer, so that nothing is left to say.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{MESSAGES} of {place} is no list of objects with role and content; write at least one")
    spoken = []
    for number, message in enumerate(value, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise UserError(f"message {number} of {place} has no role and content that are text; repair it")
        spoken.append({"role": role, "content": content})
    if spoken[-1]["role"] == ASSISTANT:
        raise UserError(f"the last message of {place} is an answer already; leave it out, or let a question follow")
    return spoken
