"""Prompts from the command line, files and stdin: lines of text, or JSONL."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any

from ...data.conversations.messages import ASSISTANT, MESSAGES, TEMPLATE_OPTIONS, TOOLS, checked_messages, checked_tools
from ...errors import UserError
from ...runs.journal.strict_json import loads
from .line_files import read_lines

FORMATS = ("text", "jsonl")
STDIN = "-"


@dataclass(frozen=True)
class Prompt:
    """A text to go on from.

    Attributes:
        text: the prompt.
        extra: what else its JSON object had, handed on to the result.
        messages: of a conversation, which stands in the place of ``text``; None where there is none.
    """

    text: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, str]] | None = None


def prompts_of_file(path: str, file_format: str | None = None, chat: bool = False) -> Iterator[Prompt]:
    """Return the prompts of a UTF-8 file, one a line; those of stdin (``-``) as they come, all of a file checked first.

    Args:
        path: the file, or ``-``.
        file_format: ``text``, or ``jsonl``: objects with a ``prompt``, or strings; None: by the suffix.
        chat: objects may have ``messages`` instead.

    Raises:
        UserError: the file cannot be read, is empty or no UTF-8, or a line is no such object; for stdin while iterating.
    """
    file_format = file_format or ("jsonl" if Path(path).suffix == ".jsonl" else "text")
    name = "stdin" if path == STDIN else f"prompt file {path}"
    from_json = _from_chat_json if chat else _from_json
    lines = _numbered(stdin_lines() if path == STDIN else iter(read_lines(path, "prompt")), name)
    if file_format != "jsonl":
        return (Prompt(line) for line, _ in lines)
    prompts = (from_json(line, place) for line, place in lines if line.strip())
    if path == STDIN:
        return prompts
    checked = list(prompts)
    if not checked:
        raise UserError(f"{name} is empty: write one prompt on each line")
    return iter(checked)


def checked_prompt(value: Any, place: str) -> Any:
    """Return a prompt of Python: a text, ids, or a conversation (``messages``, and ``tools`` and so on where it has them).

    Args:
        value: a text; a list of ids; a list of messages; or an object with ``prompt`` or ``messages``, as in a file.
        place: where it stands, for the sentence.

    Raises:
        UserError: it is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and value.get(MESSAGES) is not None:
        return _conversation(value, place)
    if isinstance(value, Mapping) and isinstance(value.get("prompt"), str):
        return value["prompt"]
    if not isinstance(value, (Mapping, bytes)) and hasattr(value, "__len__") and hasattr(value, "__getitem__"):
        parts = list(value)
        if parts and all(isinstance(part, Mapping) for part in parts):
            return _conversation({MESSAGES: [dict(part) for part in parts]}, place)
        if all(isinstance(part, Integral) for part in parts):
            return [int(part) for part in parts]
    raise UserError(
        f"{place} is {value!r:.80}; give a text, a list of messages with role and content, a list of ids, or an object with "
        "prompt or messages"
    )


def whole_stdin() -> str:
    """Return all of stdin as one prompt, without the newline at its end.

    Raises:
        UserError: it is no UTF-8 text, or there is none.
    """
    text = "\n".join(stdin_lines())
    if not text:
        raise UserError("stdin is empty; write the prompt to it")
    return text


def _numbered(lines: Iterator[str], name: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        yield line, f"line {number} of {name}"


def stdin_lines() -> Iterator[str]:
    """Lines of stdin as they come, without their ends."""
    for number, raw in enumerate(iter(sys.stdin.buffer.readline, b"")):
        try:
            line = raw.decode("utf-8" if number else "utf-8-sig")
            yield line.removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise UserError(f"stdin is not UTF-8 text ({error.reason}); convert it") from error


def _from_json(line: str, place: str) -> Prompt:
    value = _json(line, place)
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, dict) or not isinstance(value.get("prompt"), str):
        if isinstance(value, dict) and (MESSAGES in value or isinstance(value.get("prompt"), list)):
            raise UserError(f"{place} has {MESSAGES} and no prompt; add --chat")
        raise UserError(f'{place} has no prompt: {line[:60]!r}; write an object such as {{"prompt": "To be"}}')
    return Prompt(value.pop("prompt"), value)


def _from_chat_json(line: str, place: str) -> Prompt:
    value = _json(line, place)
    if isinstance(value, dict) and value.get(MESSAGES) is None and isinstance(value.get("prompt"), list):
        value = {MESSAGES: value.pop("prompt"), **value}  # as `train --sft` reads it, with the answer beside it
    if not isinstance(value, dict) or value.get(MESSAGES) is None:
        return _from_json(line, place)
    conversation = _conversation(value, place)
    messages = conversation.pop(MESSAGES)
    return Prompt("", {**{key: part for key, part in value.items() if key != MESSAGES}, **conversation}, messages)


def _conversation(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    messages = checked_messages(value[MESSAGES], place)
    if messages[-1]["role"] == ASSISTANT:
        raise UserError(f"the last message in {place} is an answer already; leave it out, or let a question follow")
    given = {key: value[key] for key in (TOOLS, TEMPLATE_OPTIONS) if value.get(key) is not None}
    if TOOLS in given:
        given[TOOLS] = checked_tools(given[TOOLS], place)
    return {MESSAGES: messages, **{key: part for key, part in given.items() if part}}


def _json(line: str, place: str) -> Any:
    try:
        return loads(line)
    except ValueError as error:
        raise UserError(f'{place} is no JSON ({error}); write an object such as {{"prompt": "To be"}}') from error
