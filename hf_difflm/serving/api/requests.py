"""What is asked, as rows that wait: the texts of one request."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import UserError
from ...evaluation.generation.holes import PromptIds
from ...evaluation.generation.texts import row_seed
from .growing_text import GrowingText
from .parameters import CHAT, Asked
from .refusals import Refusal
from .rows import Box, Row
from .served_model import ServedModel


def rows_of(
    asked: Asked, served: ServedModel, seconds: float, most: int, wake: Callable[[], Any]
) -> tuple[list[Row], int]:
    """Return the rows of a request, prompt after prompt, and how many tokens the prompts have.

    Row number i has the seed that text i of ``hf-difflm generate`` has.

    Args:
        asked: the request.
        served: the model.
        seconds: until it is too late.
        most: texts that may wait at once.
        wake: called in the model's thread when there is something to take.

    Raises:
        Refusal: another model, more texts than may wait, or what the model cannot do.
    """
    if asked.model not in (None, served.name):
        raise Refusal(
            404, f"there is no model {asked.model!r} here; this server has {served.name!r}", "model", "model_not_found"
        )
    texts = max(len(asked.prompts), 1) * asked.n
    if texts > most:
        raise Refusal(
            400, f"{texts} texts are more than the {most} that may wait here; ask for fewer", "n", "invalid_value"
        )
    try:
        return _rows_of(asked, served, time.monotonic() + seconds, wake)
    except UserError as error:
        code = "context_length_exceeded" if "exceed" in str(error) else "invalid_value"
        raise Refusal(400, str(error), None, code) from error


def _rows_of(asked: Asked, served: ServedModel, deadline: float, wake: Callable[[], Any]) -> tuple[list[Row], int]:
    importance = served.importance(asked.options)
    served.way(asked.options, importance)  # refuses what the model does not take
    rows: list[Row] = []
    prompts = _prompts(asked, served)
    for prompt, encoded in prompts:
        new_tokens = served.new_tokens(encoded, asked.options)
        if encoded.spans and asked.stops:
            raise UserError("stop is for texts that go on from a prompt, but this one has holes to fill; leave it out")
        options = dataclasses.replace(asked.options, max_new_tokens=new_tokens)
        rows += [
            Row(
                prompt,
                encoded,
                options,
                new_tokens,
                row_seed(asked.options.seed, len(rows) + copy),
                GrowingText(served.decode, served.ends, asked.stops, strip=asked.kind == CHAT),
                Box(wake),
                deadline,
                asked.stream,
                importance,
            )
            for copy in range(asked.n)
        ]
    return rows, sum(len(encoded.ids) for _, encoded in prompts)


def _prompts(asked: Asked, served: ServedModel) -> Sequence[tuple[str, PromptIds]]:
    if asked.kind == CHAT:
        return [served.conversation(asked.messages, asked.template_options)]
    return [(text, served.prompt(text, asked.options)) for text in asked.prompts]
