"""Messages of a conversation: what a JSON value must hold."""

from __future__ import annotations

from typing import Any

from ...errors import UserError

MESSAGES = "messages"
USER, ASSISTANT = "user", "assistant"

Messages = list[dict[str, str]]
"""Objects with ``role`` and ``content``."""


def checked_messages(value: Any, where: str) -> Messages:
    """Return the messages of a JSON value, roles and contents alone.

    Args:
        value: a list of objects with ``role`` and ``content``.
        where: it stands, for the sentence.

    Raises:
        UserError: it is no such list, or an empty one.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"the messages in {where} are no list of objects with role and content; repair or remove it")
    spoken = []
    for number, message in enumerate(value, start=1):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise UserError(f"message {number} in {where} has no role and content that are text; repair or remove it")
        spoken.append({"role": role, "content": content})
    return spoken
