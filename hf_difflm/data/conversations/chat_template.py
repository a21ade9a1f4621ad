"""How a conversation is written as text: the tokenizer's own chat template, or a plain one where it has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError, first_line

from .messages import MESSAGES, TEMPLATE_OPTIONS, TOOLS, WEIGHT, answered

PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ '' if loop.first else '\\n' }}{{ message['role'] | capitalize }}: "
    "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '\\n' }}Assistant:{% endif %}"
)
"""``User: ...``, a newline, ``Assistant: ...`` and so on; EOS follows the last answer."""


def complete_chat_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Give a tokenizer without a chat template the plain one, which is saved with it; return a note on that."""
    if tokenizer.chat_template is not None:
        return None
    tokenizer.chat_template = PLAIN_TEMPLATE
    return "the tokenizer has no chat template, so messages are written as lines of 'User: ...' and 'Assistant: ...'"


def prompt_and_completion(tokenizer: PreTrainedTokenizerBase, conversation: Mapping[str, Any]) -> tuple[str, str]:
    """Return the text up to the last message, the beginning of its turn included, and what the template makes of the rest.

    Args:
        tokenizer: with a chat template.
        conversation: ``messages``, and perhaps ``tools`` and ``chat_template_kwargs``.

    Raises:
        UserError: the template refuses the messages, or writes what comes before an answer otherwise once it is there, or
            does not write the answer.
    """
    whole = _written(tokenizer, conversation, add_generation_prompt=False)
    messages = conversation[MESSAGES]
    prompt = up_to_answer(tokenizer, {**conversation, MESSAGES: messages[:-1]})
    if not whole.startswith(prompt):
        raise UserError(
            "the tokenizer's chat template writes another text before an answer than before the answer is there "
            f"(it ends in {prompt[-30:]!r}); give prompt and completion as text instead of messages, or a tokenizer with "
            "another template"
        )
    completion = whole[len(prompt) :]
    for text in answered(messages[-1]):
        if text not in completion:
            raise UserError(
                f"the tokenizer's chat template does not write {text[:40]!r} of an answer, so it would not be learned; give "
                "prompt and completion as text instead of messages, or a tokenizer with another template"
            )
    return prompt, completion


def up_to_answer(tokenizer: PreTrainedTokenizerBase, conversation: Mapping[str, Any]) -> str:
    """Return messages as text, with the beginning of the answer's turn.

    Raises:
        UserError: the template refuses the messages.
    """
    return _written(tokenizer, conversation, add_generation_prompt=True)


def unwritten(tokenizer: PreTrainedTokenizerBase, conversation: Mapping[str, Any]) -> list[str]:
    """Return the keys of a conversation and of its messages that make no difference to what the template writes."""
    messages = conversation[MESSAGES]
    extra = sorted({key for message in messages for key in message} - {"role", "content", WEIGHT})
    without = {key: {MESSAGES: [{k: v for k, v in m.items() if k != key} for m in messages]} for key in extra}
    less = {key: {**conversation, **changed} for key, changed in without.items()}
    less |= {key: {k: v for k, v in conversation.items() if k != key} for key in conversation if key != MESSAGES}
    if not less:
        return []
    whole = _written(tokenizer, conversation, add_generation_prompt=False)
    return [key for key, other in less.items() if _same(tokenizer, other, whole)]


def _same(tokenizer: PreTrainedTokenizerBase, conversation: Mapping[str, Any], whole: str) -> bool:
    try:
        return _written(tokenizer, conversation, add_generation_prompt=False) == whole
    except UserError:  # it is needed
        return False


def _written(tokenizer: PreTrainedTokenizerBase, conversation: Mapping[str, Any], add_generation_prompt: bool) -> str:
    spoken = [{key: part for key, part in message.items() if key != WEIGHT} for message in conversation[MESSAGES]]
    try:
        return str(
            tokenizer.apply_chat_template(
                spoken,
                tools=conversation.get(TOOLS),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **conversation.get(TEMPLATE_OPTIONS, {}),
            )
        )
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(message["role"] for message in spoken)
        raise UserError(
            f"the tokenizer's chat template refuses a conversation of {roles} ({first_line(error)}); bring the messages into "
            "the order that it wants"
        ) from error
