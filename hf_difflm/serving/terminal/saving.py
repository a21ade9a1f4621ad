"""A conversation as a line of JSON, which ``train --sft`` and ``generate --chat --prompt-file`` read."""

from __future__ import annotations

import json
from pathlib import Path

from ...data.conversations.formats import COMPLETION, PROMPT
from ...errors import UserError
from .conversation import Conversation


def save(conversation: Conversation, path: str) -> Path:
    """Write a conversation to a new file: its messages up to the last question, and the last answer.

    ``prompt`` and ``completion`` are lists of messages; training reads them as one conversation, generating leaves the
    answer alone and hands it on.

    Raises:
        UserError: no file is named, there is no answer yet, the file is there already, or it cannot be written.
    """
    if not path:
        raise UserError("/save needs a file, such as /save chat.jsonl")
    if not conversation.turns:
        raise UserError(f"there is no answer yet to save to {path}; ask something first")
    *before, answer = conversation.messages()
    line = json.dumps({PROMPT: before, COMPLETION: [answer]}, ensure_ascii=False)
    file = Path(path).expanduser()
    try:
        with file.open("x", encoding="utf-8", errors="replace") as out:
            out.write(f"{line}\n")
    except FileExistsError:
        raise UserError(f"{path} is there already, and nothing is written over; give another name") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path} cannot be written ({reason}); give another file") from error
    return file
