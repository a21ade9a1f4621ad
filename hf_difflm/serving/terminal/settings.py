"""What is changed between two turns: the options of ``generate``, by short names."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...errors import UserError
from ...evaluation.generation.options import GenerationOptions
from ...evaluation.generation.texts import DENOISER_OPTIONS, length_limit
from ...evaluation.targets import Target
from ...models.masked_diffusion.generation_configuration import NEW_TOKENS
from ...models.masked_diffusion.sampler_names import SAMPLERS
from ...models.masked_diffusion.samplers import check_sampler
from ...training.declarations.fields import fields_of
from ...training.declarations.typed_values import typed_value

NAMES = {
    "steps": "max_denoising_steps",
    "length": "max_new_tokens",
    "temperature": "temperature",
    "top-k": "top_k",
    "top-p": "top_p",
    "seed": "seed",
}
"""Commands that set an option to a value."""
_FIELDS = fields_of(GenerationOptions, "generation")


def changed(options: GenerationOptions, word: str, value: str, is_denoiser: bool) -> GenerationOptions:
    """Return options with one of :data:`NAMES` set; ``none`` leaves it to the model.

    Raises:
        UserError: no value, a value of another kind or out of range, or an option that a causal LM has not.
    """
    name = NAMES[word]
    _refuse_causal(name, f"/{word}", is_denoiser)
    if not value:
        raise UserError(f"/{word} needs a value, such as /{word} {_EXAMPLES[word]}; /settings shows those that hold")
    typed = typed_value(_FIELDS[name], value)
    if name == "max_new_tokens":
        check_length(typed)
    return dataclasses.replace(options, **{name: typed})


def with_sampler(options: GenerationOptions, value: str, is_denoiser: bool) -> GenerationOptions:
    """Return options with another sampler, given as its name and, on wish, its parameters as JSON.

    Raises:
        UserError: no name, an unknown one, or parameters that it has not.
    """
    _refuse_causal("sampler", "/sampler", is_denoiser)
    name, _, parameters = value.partition(" ")
    if not name:
        raise UserError(f"/sampler needs a name; it is one of {', '.join(SAMPLERS)}")
    sampler = typed_value(_FIELDS["sampler"], name)
    config = typed_value(_FIELDS["sampler_config"], parameters.strip()) if parameters.strip() else None
    try:
        check_sampler(sampler, config)
    except ValueError as error:
        raise UserError(str(error)) from None
    # Importance is the uncertainty sampler's alone.
    weight = options.importance_weight if sampler == "uncertainty" else None
    return dataclasses.replace(options, sampler=sampler, sampler_config=config, importance_weight=weight)


def check_options(loaded: Target, options: GenerationOptions) -> None:
    """Raise UserError for options that the model cannot fulfil, before the first message."""
    check_length(options.max_new_tokens)
    if loaded.is_denoiser:
        settings_of(loaded, options)
        return
    for name in DENOISER_OPTIONS:
        if getattr(options, name) is not None:
            _refuse_causal(name, f"--{name.replace('_', '-')}", False)


def check_length(tokens: int | None) -> None:
    """Raise UserError where an answer would have no token."""
    if tokens is not None and tokens < 1:
        raise UserError(f"max_new_tokens is {tokens}, but an answer has at least 1 token; raise it")


def context_of(loaded: Target, wanted: int | None) -> int | None:
    """Return most tokens of a conversation, prompt and answer together; None: the model does not say.

    As many as are wanted, else as the rows had that the model was trained on, where its run log tells: it has learned no
    place behind them; else as many as it takes.

    Raises:
        UserError: it takes fewer than are wanted.
    """
    limit = length_limit(loaded.model)
    if wanted is not None and limit is not None and wanted > limit:
        raise UserError(f"context is {wanted:,} tokens, but {loaded.source} takes {limit:,}; lower it")
    known = [one for one in (wanted or loaded.config.get("block_size"), limit) if one is not None]
    return min(known) if known else None


def room_for_answer(loaded: Target, options: GenerationOptions, context: int | None) -> int:
    """Return the tokens that stay free for an answer: as many as it may have, else an eighth of the context."""
    if options.max_new_tokens is not None:
        return options.max_new_tokens
    most = _default_length(loaded)
    return most if context is None else max(1, min(most, context // 8))


def with_length(loaded: Target, options: GenerationOptions, context: int | None, prompt: int) -> GenerationOptions:
    """Return options that say how long the answer to a prompt of so many tokens may be: no longer than there is room."""
    if options.max_new_tokens is not None:
        return options
    most = _default_length(loaded)
    return dataclasses.replace(options, max_new_tokens=most if context is None else min(most, context - prompt))


def _default_length(loaded: Target) -> int:
    return getattr(loaded.model.generation_config, "max_new_tokens", None) or NEW_TOKENS


def settings_of(loaded: Target, options: GenerationOptions) -> dict[str, Any]:
    """Return what holds for the next answer, by name, what the model does where nothing was asked for included."""
    given = dataclasses.asdict(options)
    del given["infill"]
    if not loaded.is_denoiser:
        return {name: value for name, value in given.items() if name not in DENOISER_OPTIONS}
    names = ("sampler", "sampler_config", "max_denoising_steps", "temperature")
    try:
        complete = loaded.model._prepare_generation_config(None, **{name: given[name] for name in names})
    except ValueError as error:
        raise UserError(str(error)) from None
    own = complete.sampler_config.to_dict()
    given |= {"sampler": own.pop("sampler"), "sampler_config": own or None}
    return given | {name: getattr(complete, name) for name in ("max_denoising_steps", "temperature")}


_EXAMPLES = {"steps": "32", "length": "64", "temperature": "0.7", "top-k": "20", "top-p": "0.9", "seed": "1"}


def _refuse_causal(name: str, command: str, is_denoiser: bool) -> None:
    if not is_denoiser and name in DENOISER_OPTIONS:
        raise UserError(
            f"{command} is for masked diffusion models, but this is a causal LM, which writes token by token"
        )
