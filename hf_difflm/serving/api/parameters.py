"""From the body of a request to what is asked: every parameter is known and checked, or refused in a sentence."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UserError, did_you_mean
from ...evaluation.generation.options import GenerationOptions
from ...training.declarations.fields import Field, fields_of
from ...training.declarations.typed_values import shown, typed_value
from .refusals import Refusal

MOST_TEXTS, MOST_STOPS, MOST_STEPS, MOST_SEED = 128, 16, 100_000, 2**63 - 1
CHAT, TEXT = "chat", "text"
"""What is asked for: an answer to messages, or a text after prompts."""
_OPTIONS = {
    name: field for name, field in fields_of(GenerationOptions, "generation").items() if name != "max_new_tokens"
}
_LENGTHS = {CHAT: ("max_tokens", "max_completion_tokens"), TEXT: ("max_tokens",)}
_OWN = {
    CHAT: ("messages", "chat_template_kwargs"),
    TEXT: ("prompt",),
}
_COMMON = ("model", "n", "stop", "stream", "stream_options", "user")
# What the API has and we have not: values that ask for nothing may come, since many clients send them.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logprobs": (None, False),
    "top_logprobs": (None,),
    "echo": (None, False),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "store": (None, False),
}
_WHY = {
    "logprobs": "a text that is written in any order has no log-probability of its own tokens; `hf-difflm eval` tells bounds",
    "suffix": "write the prompt with [MASK] where text is missing",
}


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Args:
        kind: ``chat`` or ``text``.
        model: the name it gives; None where it gives none.
        prompts: of ``text``.
        messages, template_options: of ``chat``, unchecked.
        options: how to generate; ``seed`` is that of the request, drawn where it gives none.
        n: texts of each prompt.
        stops: strings before which a text ends.
        stream: whether events are wanted.
        include_usage: whether the last event tells the usage.
    """

    kind: str
    model: str | None
    prompts: tuple[str, ...]
    messages: Any
    template_options: Mapping[str, Any]
    options: GenerationOptions
    n: int
    stops: tuple[str, ...]
    stream: bool
    include_usage: bool


def asked_of(body: bytes, kind: str) -> Asked:
    """Read the body of a request.

    Raises:
        Refusal: no JSON, an unknown parameter, or a value of the wrong kind or out of its range.
    """
    given = _object(body)
    for name in given:
        _check_known(name, given[name], kind)
    values = {name: value for name, value in given.items() if name in _OPTIONS and value is not None}
    options = GenerationOptions(**{name: _typed(_OPTIONS[name], value) for name, value in values.items()})
    if options.max_denoising_steps is not None and options.max_denoising_steps > MOST_STEPS:
        raise _wrong("max_denoising_steps", f"at most {MOST_STEPS}", options.max_denoising_steps)
    if options.seed > MOST_SEED:
        raise _wrong("seed", f"at most {MOST_SEED}", options.seed)
    stream_options = _of(given, "stream_options", dict, {}, 'an object such as {"include_usage": true}')
    if unknown := set(stream_options) - {"include_usage", "include_obfuscation"}:
        raise Refusal(
            400, f"stream_options has no {min(unknown)!r}; leave it out", "stream_options", "unknown_parameter"
        )
    infill = options.infill if kind == TEXT else False
    return Asked(
        kind=kind,
        model=_of(given, "model", str, None, "text"),
        prompts=_prompts(given) if kind == TEXT else (),
        messages=given.get("messages"),
        template_options=_of(given, "chat_template_kwargs", dict, {}, "an object"),
        options=dataclasses.replace(
            options,
            max_new_tokens=_length(given, kind),
            infill=infill,
            seed=options.seed if given.get("seed") is not None else secrets.randbelow(2**31),
        ),
        n=_number(given, "n", MOST_TEXTS),
        stops=_stops(given.get("stop")),
        stream=_of(given, "stream", bool, False, "true or false"),
        include_usage=_of(stream_options, "include_usage", bool, False, "true or false"),
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(
            400, f"the body is no JSON ({type(error).__name__}); send an object", code="invalid_json"
        ) from error
    if not isinstance(given, dict):
        raise Refusal(400, "the body is JSON, but no object; send an object", code="invalid_json")
    return given


def _check_known(name: str, value: Any, kind: str) -> None:
    known = (*_OWN[kind], *_COMMON, *_LENGTHS[kind], *_OPTIONS)
    if name in known:
        if name == "infill" and kind == CHAT and value:
            raise Refusal(400, "infill is for /v1/completions; leave it out", name, "unsupported_parameter")
        return
    if name not in _NEUTRAL:
        hint = did_you_mean(name, known)
        raise Refusal(
            400, f"there is no parameter {name[:60]!r}{hint or '; leave it out'}", name[:60], "unknown_parameter"
        )
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in _NEUTRAL[name]):
        raise Refusal(
            400, f"{name} is not supported here: {_WHY.get(name, 'leave it out')}", name, "unsupported_parameter"
        )


def _typed(field: Field, value: Any) -> Any:
    try:
        return typed_value(field, value)
    except (UserError, OverflowError) as error:
        raise Refusal(400, str(error), field.name, "invalid_value") from error


def _of(given: Mapping[str, Any], name: str, kind: type, default: Any, words: str) -> Any:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise _wrong(name, words, value)
    return value


def _number(given: Mapping[str, Any], name: str, most: int) -> int:
    value = _of(given, name, int, 1, f"an integer of 1 to {most}")
    if isinstance(value, bool) or not 1 <= value <= most:
        raise _wrong(name, f"an integer of 1 to {most}", value)
    return value


def _length(given: Mapping[str, Any], kind: str) -> int | None:
    found = {name: given[name] for name in _LENGTHS[kind] if given.get(name) is not None}
    if len(set(map(str, found.values()))) > 1:
        raise Refusal(
            400, "max_tokens and max_completion_tokens differ; give one of them", "max_tokens", "invalid_value"
        )
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong(name, "an integer of 0 or more", value)
        return value
    return None


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(one, str) and one for one in stops):
        raise _wrong("stop", f"text, or a list of at most {MOST_STOPS} texts that are not empty", value)
    return tuple(stops)


def _prompts(given: Mapping[str, Any]) -> tuple[str, ...]:
    value = given.get("prompt", "")
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise _wrong("prompt", "text or a list of texts (token ids are not taken)", value)
    return tuple(prompts)


def _wrong(name: str, words: str, value: Any) -> Refusal:
    text = shown(value)
    text = text if len(text) <= 80 else f"{text[:80]}..."
    return Refusal(400, f"{name} must be {words}, got {text}", name, "invalid_value")
