"""Conversations as prompts: messages, written by the tokenizer's chat template up to where the answer begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from ...data.conversations.chat_template import up_to_answer
from ...data.conversations.messages import MESSAGES, USER
from ...errors import UserError
from .prompts import Prompt


def written(tokenizer: Any, prompts: Iterable[Prompt], name: str) -> Iterator[Prompt]:
    """Write each conversation as the text that an answer follows; a prompt without messages is the user's turn.

    The messages are handed on to the result.

    Args:
        tokenizer: with a chat template.
        prompts: asked for one by one: they may come from a pipe.
        name: of the model, for the sentence.

    Raises:
        UserError: there is no chat template (at once), or it refuses a conversation (while iterating).
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise UserError(
            f"the tokenizer of {name} has no chat template, so it is not known how a message is written; leave out --chat, "
            "or fine-tune the model with `train --sft` first"
        )
    return (_written(tokenizer, prompt) for prompt in prompts)


def chat_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of what a chat template wrote, as in training: its special tokens are special, and BOS is the first."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def _written(tokenizer: Any, prompt: Prompt) -> Prompt:
    messages = list(prompt.messages) if prompt.messages is not None else [{"role": USER, "content": prompt.text}]
    text = up_to_answer(tokenizer, messages)
    return dataclasses.replace(prompt, text=text, extra={**prompt.extra, MESSAGES: messages})
