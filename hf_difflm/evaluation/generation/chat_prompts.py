"""Conversations as prompts: messages, written by the tokenizer's chat template up to where the answer begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...data.conversations.chat_template import unwritten, up_to_answer
from ...data.conversations.messages import MESSAGES, TEMPLATE_OPTIONS, TOOLS, USER
from ...data.text_ids import TextIds
from ...errors import UserError
from .holes import PromptIds
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


def chat_prompt(text: TextIds, conversation: Mapping[str, Any]) -> tuple[str, PromptIds]:
    """Return a conversation as text up to where the answer begins, and as the model gets it.

    Raises:
        UserError: there is no chat template, or it refuses the conversation.
    """
    prompt = _asked(text.tokenizer, conversation)
    return prompt, PromptIds(text.prompt(prompt))


def _written(tokenizer: Any, prompt: Prompt) -> Prompt:
    messages = list(prompt.messages) if prompt.messages is not None else [{"role": USER, "content": prompt.text}]
    given = {key: prompt.extra[key] for key in (TOOLS, TEMPLATE_OPTIONS) if prompt.extra.get(key)}
    text = _asked(tokenizer, {MESSAGES: messages, **given})
    return dataclasses.replace(prompt, text=text, extra={**prompt.extra, MESSAGES: messages})


def _asked(tokenizer: Any, conversation: Mapping[str, Any]) -> str:
    if TOOLS in conversation and TOOLS in unwritten(tokenizer, conversation):
        raise UserError("the tokenizer's chat template has no place for tools; leave them out")
    return up_to_answer(tokenizer, conversation)
