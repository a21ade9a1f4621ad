"""All samplers by name, and what ``sampler`` and ``sampler_config`` of a generation config mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from .sampler_names import SAMPLERS
from .sampler_protocol import Sampler
from .sampler_uncertainty import UncertaintySampler
from .samplers_confidence import (
    ConfidenceThresholdSampler,
    EntropyBoundedSampler,
    EntropySampler,
    LowConfidenceSampler,
    MaskGITPlusSampler,
    TopKMarginSampler,
)
from .samplers_fixed import LeftToRightSampler, RandomOrderSampler
from .samplers_published import DreamSampler, LLaDA2Sampler, LLaDASampler, SDARSampler
from .samplers_timed import AncestralSampler, CachedAncestralSampler, FirstHittingSampler, ReMDMSampler

_CLASSES: dict[str, type[Sampler]] = {
    kind.name: kind
    for kind in (
        AncestralSampler,
        CachedAncestralSampler,
        FirstHittingSampler,
        ReMDMSampler,
        LeftToRightSampler,
        RandomOrderSampler,
        LowConfidenceSampler,
        MaskGITPlusSampler,
        TopKMarginSampler,
        EntropySampler,
        EntropyBoundedSampler,
        ConfidenceThresholdSampler,
        UncertaintySampler,
        LLaDASampler,
        DreamSampler,
        SDARSampler,
        LLaDA2Sampler,
    )
}
SamplerConfig = Sampler | dict[str, Any]


def check_sampler(name: str | None, config: SamplerConfig | None) -> None:
    """Raises ValueError where name and parameters do not go together, or make no sampler."""
    own = name_of(config)
    if name is not None and not isinstance(config, Sampler):  # which may be a class of the caller's
        _class(name)
    if name is not None and own is not None and own != name:
        raise ValueError(f"sampler is {name!r}, but sampler_config is that of {own!r}; leave one of them out")
    if isinstance(config, dict) and (own or name) is not None:
        build_sampler(own or name, config)
    elif config is not None and not isinstance(config, Sampler | dict):
        raise ValueError(f"sampler_config must be a sampler or a dict of its parameters, got {config!r}")


def choose_sampler(layers: Iterable[tuple[str | None, SamplerConfig | None]]) -> Sampler:
    """The sampler that several generation configs make, the strongest first.

    The first that names a sampler decides which; its parameters are the first that are given for that sampler.
    """
    name: str | None = None
    parameters: SamplerConfig | None = None
    for layer_name, layer_config in layers:
        own = layer_name or name_of(layer_config)
        name = name or own
        if parameters is None and layer_config is not None and own in (None, name):
            parameters = layer_config
    if name is None:
        raise ValueError(f"no sampler was given; it must be one of {', '.join(SAMPLERS)}")
    return parameters if isinstance(parameters, Sampler) else build_sampler(name, parameters or {})


def build_sampler(name: str | None, parameters: dict[str, Any]) -> Sampler:
    """A sampler from its name and parameters.

    Raises:
        ValueError: an unknown name or parameter (the nearest is named), or a value out of its range.
    """
    kind = _class(name)
    known = [field.name for field in fields(kind)]
    values = {key: value for key, value in parameters.items() if key != "sampler"}
    for key in values:
        if key not in known:
            listed = f"; it has {', '.join(known)}" if known else "; it has none"
            raise ValueError(f"sampler {name} has no parameter {key!r}{nearest(key, known) or listed}")
    hints = get_type_hints(kind)
    for key, value in values.items():
        allowed = get_args(hints[key]) or (hints[key],)
        if not any(_is(value, hint) for hint in allowed):
            words = " or ".join(_WORDS[get_origin(hint) or hint] for hint in allowed)
            raise ValueError(f"{key} of sampler {name} must be {words}, got {value!r}")
    return kind(**values)


def name_of(config: SamplerConfig | None) -> str | None:
    """The sampler that parameters are for; None where they do not say."""
    return config.name if isinstance(config, Sampler) else config.get("sampler") if isinstance(config, dict) else None


_WORDS = {int: "an integer", float: "a number", str: "text", list: "a list of numbers", type(None): "none"}


def _is(value: Any, hint: Any) -> bool:
    """Whether a value, as JSON has it, is of one plain type."""
    if get_origin(hint) is list:
        return isinstance(value, list | tuple) and all(_is(one, float) for one in value)
    if hint is float:
        hint = int | float
    return isinstance(value, hint) and not isinstance(value, bool)


def _class(name: Any) -> type[Sampler]:
    if name not in _CLASSES:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}{nearest(str(name), SAMPLERS)}")
    return _CLASSES[name]


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known one that is most like it, if any is."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


__all__ = [
    "SAMPLERS",
    "Sampler",
    "SamplerConfig",
    "build_sampler",
    "check_sampler",
    "choose_sampler",
    "name_of",
    "nearest",
]
