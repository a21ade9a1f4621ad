"""How a conversation is written as text: the tokenizer's own chat template, or a plain one where it has none."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError, first_line

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


def prompt_and_completion(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> tuple[str, str]:
    """Return the text up to the last message, the beginning of its turn included, and what the template makes of the rest.

    Raises:
        UserError: the template refuses the messages, or writes what comes before an answer otherwise once it is there.
    """
    try:
        prompt = str(tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True))
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the tokenizer's chat template refuses a conversation of {roles} ({first_line(error)}); bring the messages into "
            "the order that it wants"
        ) from error
    if not whole.startswith(prompt):
        raise UserError(
            "the tokenizer's chat template writes another text before an answer than before the answer is there "
            f"(it ends in {prompt[-30:]!r}); give prompt and completion as text instead of messages, or a tokenizer with "
            "another template"
        )
    return prompt, whole[len(prompt) :]
