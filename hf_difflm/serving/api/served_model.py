"""The model of a server: texts to rows, rows to texts."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ...data.conversations.messages import ASSISTANT, MESSAGES, TEMPLATE_OPTIONS, checked_messages
from ...data.text_ids import TextIds
from ...errors import UserError
from ...evaluation.generation.holes import PromptIds
from ...evaluation.generation.importance_weights import importance_for
from ...evaluation.generation.options import GenerationOptions
from ...evaluation.generation.spoken_prompts import spoken_prompt
from ...evaluation.generation.texts import (
    GeneratedText,
    Importance,
    Watch,
    check_options,
    encoded_prompt,
    generate_samples,
    length_limit,
    new_tokens_after,
)
from ...evaluation.targets import Target
from ...models.backbones.check import takes_left_padding
from .batch_streamer import WayOfWriting
from .rows import Row

UNKNOWN_LENGTH = 4096
"""Most tokens of a prompt and its text where the model does not say how many it takes."""

NEAR = 8
"""Prompts whose lengths differ by so many tokens, or a quarter, go into one batch: with more padding two are cheaper."""


class ServedModel:
    """A loaded model, asked from two threads: :meth:`written` in the model's own, everything else in one other.

    Args:
        target: the model.
        name: what clients call it.
        max_length: most tokens of a prompt and its text; None: what the model takes.
    """

    def __init__(self, target: Target, name: str, max_length: int | None = None) -> None:
        self.target, self.name = target, name
        self.limit = max_length or length_limit(target.model) or UNKNOWN_LENGTH
        # A tokenizer that is asked for ids changes settings of its own, so the model's thread has another.
        self._text = dataclasses.replace(target.text, tokenizer=copy.deepcopy(target.tokenizer))
        eos = getattr(target.model.generation_config, "eos_token_id", None)
        eos = getattr(target.model.config, "eos_token_id", None) if eos is None else eos
        self.ends = frozenset([] if eos is None else eos if isinstance(eos, list) else [eos])
        config = target.model.config
        self._pads = not config.reads_padding if target.is_denoiser else takes_left_padding(target.model)

    @property
    def text(self) -> TextIds:
        """How text becomes ids."""
        return self._text

    def conversation(self, messages: Any, template_options: Mapping[str, Any]) -> tuple[str, PromptIds]:
        """Return a conversation as text up to where the answer begins, and as the model gets it; what is said is text.

        Raises:
            UserError: these are no messages, there is no chat template, or it refuses them.
        """
        if getattr(self._text.tokenizer, "chat_template", None) is None:
            raise UserError(
                f"the tokenizer of {self.name} has no chat template, so it is not known how a message is written; ask "
                "/v1/completions, or fine-tune the model with `train --sft` first"
            )
        checked = checked_messages(messages, "the request")
        if checked[-1]["role"] == ASSISTANT:
            raise UserError(
                "the last message in the request is an answer already; leave it out, or let a question follow"
            )
        return spoken_prompt(self._text, {MESSAGES: checked, TEMPLATE_OPTIONS: dict(template_options)})

    def prompt(self, text: str, options: GenerationOptions) -> PromptIds:
        """Return a prompt as the model gets it. Raises UserError as its parts do."""
        return encoded_prompt(self.target.model, self._text, text, options.infill is not False)

    def new_tokens(self, prompt: PromptIds, options: GenerationOptions) -> int:
        """Return the most tokens to follow a prompt.

        Raises:
            UserError: more than the model takes or the server allows, or nothing to generate.
        """
        new_tokens = new_tokens_after(self.target.model, prompt, options)
        if options.max_new_tokens is None:
            new_tokens = min(new_tokens, max(self.limit - len(prompt.ids), 0 if prompt.spans else 1))
        if len(prompt.ids) + new_tokens > self.limit:
            raise UserError(
                f"the prompt ({len(prompt.ids)} tokens) and max_tokens {new_tokens} together exceed the {self.limit} tokens "
                "that this server takes; shorten the prompt or lower max_tokens"
            )
        return new_tokens

    def importance(self, options: GenerationOptions) -> Importance | None:
        """Return what weighs positions. Raises UserError where there is none beside the model."""
        return importance_for(self.target, options)

    def way(self, options: GenerationOptions, importance: Importance | None = None) -> WayOfWriting:
        """Return how the model writes under some options.

        Raises:
            UserError: an option that it does not take, or a value out of its range.
        """
        config = check_options(self.target.model, self.target.tokenizer, options, importance)
        if config is None:
            return WayOfWriting()
        of_model = self.target.model.config
        return WayOfWriting(
            settles=not config.sampler_config.remasks,
            block_size=getattr(of_model, "diffusion_block_size", None),
            from_answer=getattr(of_model, "diffusion_block_start", None) == "answer",
        )

    def go_together(self, one: int, other: int) -> bool:
        """Whether rows whose prompts have so many tokens go into one batch: near each other, and padding changes neither."""
        return one == other or (self._pads and abs(one - other) <= max(NEAR, other // 4))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; special ones have none. For the model's thread."""
        return str(self.target.tokenizer.decode(list(ids), skip_special_tokens=True))

    def written(self, rows: Sequence[Row], watch: Watch | None) -> list[GeneratedText]:
        """Write the texts of rows that have the same settings.

        Raises:
            UserError: the model cannot do what is asked.
        """
        first = rows[0]
        return generate_samples(
            self.target.model,
            self.target.tokenizer,
            [row.prompt for row in rows],
            first.options,
            watch=watch,
            importance=first.importance,
            encoded=[row.encoded for row in rows],
            seeds=[row.seed for row in rows],
        )
