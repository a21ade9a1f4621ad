"""How a conversation is written as text: the tokenizer's own chat template, or a plain one where it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def prompt_and_completion(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    """Return the text up to the last message, the beginning of its turn included, and what the template makes of the rest.

    Raises:
        UserError: the template refuses the messages, or writes what comes before an answer otherwise once it is there.
    """
    whole = _written(tokenizer, messages, add_generation_prompt=False)
    prompt = up_to_answer(tokenizer, messages[:-1])
    if not whole.startswith(prompt):
        raise UserError(
            "the tokenizer's chat template writes another text before an answer than before the answer is there "
            f"(it ends in {prompt[-30:]!r}); give prompt and completion as text instead of messages, or a tokenizer with "
            "another template"
        )
    return prompt, whole[len(prompt) :]


def up_to_answer(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    """Return messages as text, with the beginning of the answer's turn.

    Raises:
        UserError: the template refuses the messages.
    """
    return _written(tokenizer, messages, add_generation_prompt=True)


def _written(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool
) -> str:
    spoken = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(spoken, tokenize=False, add_generation_prompt=add_generation_prompt))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        roles = ", ".join(message["role"] for message in spoken)
        raise UserError(
            f"the tokenizer's chat template refuses a conversation of {roles} ({first_line(error)}); bring the messages into "
            "the order that it wants"
        ) from error
