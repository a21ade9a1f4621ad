"""Messages of a conversation: what a JSON value must hold."""

from __future__ import annotations

import json
from typing import Any

from ...errors import UserError

MESSAGES, TOOLS, TEMPLATE_OPTIONS = "messages", "tools", "chat_template_kwargs"
USER, ASSISTANT = "user", "assistant"
TOOL_CALLS, WEIGHT = "tool_calls", "weight"
_ALWAYS = ("role", "content")

Messages = list[dict[str, Any]]
"""Objects with ``role`` and ``content``, and with whatever else a chat template may write: ``tool_calls``, ``name``, ..."""


def checked_messages(value: Any, where: str) -> Messages:
    """Return the messages of a JSON value as chat templates take them.

    A content of text parts becomes their text, one after the other; a missing one beside ``tool_calls`` the empty text;
    the arguments of a call that are JSON become what they hold. Keys without a value go, and a weight of 1.

    Args:
        value: a list of objects with ``role`` and ``content``.
        where: it stands, for the sentence.

    Raises:
        UserError: it is no such list, or an empty one; a part is no text; the last message has a weight other than 1.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"the messages in {where} are no list of objects with role and content; repair or remove it")
    spoken = []
    for number, message in enumerate(value, start=1):
        place = f"message {number} in {where}"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UserError(f"{place} has no role and content that are text; repair or remove it")
        if number == len(value):
            refuse_weight(message, place)
        kept = {key: part for key, part in message.items() if part is not None and (key, part) != (WEIGHT, 1)}
        content, calls = kept.get("content"), kept.get(TOOL_CALLS)
        if isinstance(content, list):
            content = "".join(_text_of(part, place) for part in content)
        if content is None and calls:
            content = ""
        if not isinstance(content, str):
            raise UserError(f"{place} has no role and content that are text; repair or remove it")
        if calls is not None:
            kept[TOOL_CALLS] = [_checked_call(call, place) for call in (calls if isinstance(calls, list) else [calls])]
        spoken.append({"role": kept["role"], "content": content} | {k: v for k, v in kept.items() if k not in _ALWAYS})
    return spoken


def checked_tools(value: Any, where: str) -> list[Any]:
    """Return the tools of a conversation: a list of JSON schemas, or the JSON of one.

    Raises:
        UserError: it is something else.
    """
    try:
        tools = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        tools = None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UserError(f"the tools in {where} are no list of objects; repair or remove them")
    return tools


def refuse_weight(part: dict[str, Any], where: str) -> None:
    """Raise UserError where a row or an answer says that it is to be learned with another weight than all others."""
    weight = part.get(WEIGHT)
    if weight is not None and weight != 1:
        raise UserError(
            f"the weight of {where} is {weight!r}, but every answer counts the same here; remove the row, or its weight"
        )


def answered_turns(messages: Messages) -> list[int]:
    """Return which messages are answers to learn: of the assistant, with something in them and before them.

    One with a weight of 0 is none, as where OpenAI's fine-tuning reads it.
    """
    return [
        number
        for number, message in enumerate(messages)
        if message["role"] == ASSISTANT
        and number > 0
        and message.get(WEIGHT) != 0
        and (message["content"].strip() or message.get(TOOL_CALLS))
    ]


def without_nulls(value: Any) -> Any:
    """Return a value of Arrow without the keys that it has only because other rows have them."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def answered(message: dict[str, Any]) -> list[str]:
    """Return the texts that an answer consists of: its content, what it thought apart, and the names of what it calls."""
    content = message["content"].rpartition("</think>")[2].strip()
    names = [call.get("function", call)["name"] for call in message.get(TOOL_CALLS, ())]
    return [text for text in (content, *names) if text]


def _text_of(part: Any, place: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise UserError(f"{place} has a part of type {kind!r}, but language models read text; remove it")


def _checked_call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError(f"{place} has a tool call without the name of a function; repair or remove it")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return call  # what a template makes of text is text
        function = {**function, "arguments": arguments}
        return {**call, "function": function} if "function" in call else function
    return call
