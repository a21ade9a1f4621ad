"""The samplers that ``eval --generation`` tries: ``ddpm_cache,remdm:eta=0.1,uncertainty:measure=margin:budget=1``."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError, did_you_mean
from ...models.masked_diffusion.sampler_names import SAMPLERS
from ..generation.options import GenerationOptions

_WEIGHT = "importance_weight"


@dataclass(frozen=True)
class SamplerChoice:
    """A sampler and its parameters; what is not given is left to its defaults.

    Attributes:
        name: of the sampler.
        parameters: as they were given, with ``importance_weight`` where there is one.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def options(self, others: GenerationOptions, steps: int) -> GenerationOptions:
        """The options of generating with it."""
        own = {name: value for name, value in self.parameters.items() if name != _WEIGHT}
        weight = self.parameters.get(_WEIGHT)
        return dataclasses.replace(
            others, sampler=self.name, sampler_config=own or None, max_denoising_steps=steps, importance_weight=weight
        )

    def check(self) -> bool:
        """Whether it says itself how many tokens a step reveals, so that one number of steps is enough.

        Raises:
            UserError: a parameter it does not have, or a value out of its range.
        """
        from ...models.masked_diffusion.samplers import build_sampler

        own = dict(self.parameters)
        weight = own.pop(_WEIGHT, None)
        if weight is not None and self.name != "uncertainty":
            raise UserError(
                f"{_WEIGHT} is for the sampler uncertainty, but {self.name} has it in --samplers; leave it out"
            )
        if weight is not None and (
            isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf
        ):
            raise UserError(f"{_WEIGHT} must be a number of at least 0, got {weight!r}")
        try:
            return build_sampler(self.name, own).paces_itself
        except ValueError as error:
            raise UserError(str(error)) from None


def read_samplers(text: str) -> list[SamplerChoice]:
    """Read names with commas between them, each with ``:parameter=value`` as often as one likes; needs no torch.

    A value is JSON (a number, a list in brackets), else text.

    Raises:
        UserError: an unknown name (the nearest is named), the same twice, or none.
    """
    parts = [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]
    choices = [_read(part) for part in parts]
    if not choices or any(choice in choices[:place] for place, choice in enumerate(choices)):
        raise UserError(f"--samplers must be different ones with commas between them, got {text!r}")
    return choices


def trials(
    choices: Sequence[SamplerChoice], steps: Sequence[int], most_tokens: int
) -> list[tuple[SamplerChoice, int, int | None]]:
    """Return each choice with the most steps it gets and the number of steps that is varied; None where none is.

    What says itself how many tokens a step reveals gets as many steps as tokens, once.

    Raises:
        UserError: see :meth:`SamplerChoice.check`.
    """
    paced = [choice.check() for choice in choices]
    return [
        (choice, most_tokens if count is None else count, count)
        for choice, itself in zip(choices, paced, strict=True)
        for count in ([None] if itself else steps)
    ]


def _read(part: str) -> SamplerChoice:
    name, *pairs = [piece.strip() for piece in part.split(":")]
    if name not in SAMPLERS:
        raise UserError(f"--samplers must be of {', '.join(SAMPLERS)}, got {name!r}{did_you_mean(name, SAMPLERS)}")
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key or not value.strip() or key in parameters:
            raise UserError(
                f"--samplers takes NAME:PARAMETER=VALUE:PARAMETER=VALUE, each parameter once, but has {part!r}; "
                "write for example remdm:eta=0.1"
            )
        parameters[key] = _value(value.strip())
    return SamplerChoice(name, parameters)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
