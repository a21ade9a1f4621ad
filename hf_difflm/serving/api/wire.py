"""Answers as the API writes them: whole, or event by event."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from .parameters import CHAT, Asked
from .rows import Piece

DONE = "data: [DONE]\n\n"


class Wire:
    """Writes one answer.

    Args:
        asked: what the request asks for.
        model: the name of the model.
    """

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked, self._is_chat = asked, asked.kind == CHAT
        self._head = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, texts: list[tuple[str, Piece]], usage: Mapping[str, int]) -> dict[str, Any]:
        """All texts, each with its last piece."""
        choices = []
        for index, (text, last) in enumerate(texts):
            said = (
                {"message": {"role": "assistant", "content": text, "refusal": None}}
                if self._is_chat
                else {"text": text}
            )
            fills = {} if last.fills is None else {"fills": list(last.fills)}
            choices.append({"index": index, **said, "logprobs": None, "finish_reason": last.reason, **fills})
        kind = "chat.completion" if self._is_chat else "text_completion"
        return self._answer(kind, choices, usage=usage)

    def role(self, index: int) -> str:
        """The event that begins an answer to messages; nothing elsewhere."""
        return self._choice(index, {"delta": {"role": "assistant", "content": ""}}) if self._is_chat else ""

    def event(self, index: int, piece: Piece) -> str:
        """The event of a piece of a text; ``draft`` beside the choice's own keys is what OpenAI's API does not have."""
        extra: dict[str, Any] = {} if piece.draft is None else {"draft": piece.draft}
        if piece.fills is not None:
            extra["fills"] = list(piece.fills)
        written = ""
        if piece.delta or piece.draft is not None or not self._is_chat:
            reason = None if self._is_chat else piece.reason
            said = {"delta": {"content": piece.delta}} if self._is_chat else {"text": piece.delta}
            written = self._choice(index, said | extra, reason)
        if self._is_chat and piece.reason is not None:
            written += self._choice(index, {"delta": {}}, piece.reason)
        return written

    def usage(self, usage: Mapping[str, int]) -> str:
        """The event with the counts, where it was asked for."""
        return self._event(self._answer(self._chunk, [], usage=usage)) if self._asked.include_usage else ""

    @property
    def _chunk(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _choice(self, index: int, said: Mapping[str, Any], reason: str | None = None) -> str:
        choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
        return self._event(self._answer(self._chunk, [choice]))

    def _answer(self, kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
        usage = {"usage": None} if self._asked.stream and self._asked.include_usage else {}
        return self._head | {"object": kind, "choices": choices, "seed": self._asked.options.seed} | usage | more

    @staticmethod
    def _event(value: Any) -> str:
        return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def error_event(body: Mapping[str, Any]) -> str:
    """An error in the middle of a stream."""
    return f"data: {json.dumps(body)}\n\n"


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Counts, as the API has them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
