"""The formats that conversations come in, as one table: each is brought into messages, or into a prompt and a completion."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from .marked_text import TEXT
from .messages import ASSISTANT, MESSAGES, USER

PROMPT, COMPLETION = "prompt", "completion"
SYSTEM = "system"
CONVERSATIONS = "conversations"
ROLES = {"human": USER, "gpt": ASSISTANT, "bot": ASSISTANT, "model": ASSISTANT}
"""What other programs call a role."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One way of writing a conversation down.

    Attributes:
        name: that people know it by.
        columns: that a row of it has.
        more: that it may have beside them.
        read: the row with ``messages`` in place of its columns; None where these are read as they are.
    """

    name: str
    columns: tuple[str, ...]
    more: tuple[str, ...] = ()
    read: Callable[[Row, str], list[Any]] | None = None


def _sharegpt(row: Row, where: str) -> list[Any]:
    said = row[CONVERSATIONS]
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise UserError(f"{CONVERSATIONS} in {where} is no list of objects with from and value; repair or remove it")
    spoken = [{"role": one["from"], "content": one.get("value")} if "from" in one else one for one in said]
    return _after_system(row, spoken)


def _alpaca(row: Row, where: str) -> list[Any]:
    asked = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return _after_system(row, _pair(asked, row["output"]))


def _pair_of(question: str, answer: str) -> Callable[[Row, str], list[Any]]:
    return lambda row, where: _after_system(row, _pair(row[question], row[answer]))


def _pair(question: Any, answer: Any) -> list[Any]:
    return [{"role": USER, "content": question}, {"role": ASSISTANT, "content": answer}]


def _after_system(row: Row, spoken: list[Any]) -> list[Any]:
    return [{"role": SYSTEM, "content": row[SYSTEM]}, *spoken] if row.get(SYSTEM) else spoken


FORMATS = (
    Format("messages", (MESSAGES,)),
    Format("prompt and completion", (PROMPT, COMPLETION)),
    Format("ShareGPT", (CONVERSATIONS,), (SYSTEM,), _sharegpt),
    Format("alpaca", ("instruction", "output"), ("input", SYSTEM), _alpaca),
    Format("prompt and response", (PROMPT, "response"), (SYSTEM,), _pair_of(PROMPT, "response")),
    Format("question and answer", ("question", "answer"), (SYSTEM,), _pair_of("question", "answer")),
    Format("text with the markers of a chat template", (TEXT,)),
)
COLUMNS = tuple(dict.fromkeys(column for one in FORMATS for column in (*one.columns, *one.more)))
"""All columns that some format reads."""


def format_of(columns: Iterable[str]) -> Format | None:
    """Return the first format whose columns are all there; None where there is none."""
    there = set(columns)
    return next((one for one in FORMATS if there.issuperset(one.columns)), None)


def known_formats() -> str:
    """Return the formats with their columns, in words."""
    return ", ".join(
        one.name
        if one.name == " and ".join(one.columns) or one.columns == (one.name,)
        else f"{one.name} ({', '.join(one.columns)})"
        for one in FORMATS
    )


def brought(row: Row, where: str) -> tuple[Row, Format | None]:
    """Return a row with ``messages``, or a ``prompt`` and a ``completion``, in place of the columns of its format.

    Args:
        row: a row; columns without a value count as missing.
        where: it stands, for the sentence.

    Raises:
        UserError: the columns of a format hold something else.
    """
    found = format_of(name for name, value in row.items() if value is not None)
    if found is not None and found.read is not None:
        others = {name: value for name, value in row.items() if name not in (*found.columns, *found.more)}
        row = {MESSAGES: found.read(row, where), **others}
    if isinstance(row.get(MESSAGES), list):
        spoken = [
            {**one, "role": ROLES[one["role"]]} if isinstance(one, dict) and one.get("role") in ROLES else one
            for one in row[MESSAGES]
        ]
        row = {**row, MESSAGES: spoken}
    return row, found
