"""Which ways to draw the noise exist together; no heavy import in here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..objectives.names import weight_power
from .options import DiffusionOptions

_SHAPES = {"count_law_exponent": "importance"} | dict.fromkeys(
    ("count_law_centre", "count_law_width", "count_law_uniform_share"), "bell"
)
"""The parameters of a law, and whose they are."""
_COUNTS = ("mdlm", "bd3lm")
"""Objectives that hide counted tokens, of a sequence or of each block, and so have laws of counts and complements."""


def check_noise(training: Mapping[str, Any]) -> None:
    """Raise UserError where complementary pairs, count laws, weights or static shapes do not exist with the other settings.

    Args:
        training: the training arguments by name; an autoregressive model has no noise and one shape, so for it all
            combinations are fine.
    """
    objective, form, sampling = training["objective"], training["loss_form"], training["noise_sampling"]
    if objective == "ar":
        return
    _check_law(training)
    if objective == "bd3lm":
        _check_blocks(training)
    else:
        for name in ("diffusion_block_size", "diffusion_block_size_schedule"):
            if training.get(name) is not None:
                raise UserError(
                    f"{name} is for the objective bd3lm, but the objective is {objective}; leave it out, or train with "
                    "objective bd3lm"
                )
    if sampling == "pairs" and objective not in _COUNTS:
        raise UserError(
            f"noise_sampling pairs is for the objectives {' and '.join(_COUNTS)}, but the objective is {objective}, whose "
            "masks have no complement; use stratified, or train with objective mdlm"
        )
    if sampling == "pairs" and form != "any_order":
        raise UserError(
            f"noise_sampling pairs takes exact counts, but loss_form is {form}; use loss_form any_order, or stratified"
        )
    if not training["static_shapes"]:
        return
    if training["count_law"] == "optimal":
        raise UserError(
            "static_shapes needs a bound on the labelled positions, which count_law optimal has not, since it changes with "
            "what is measured; use another law, or leave static_shapes out"
        )
    if objective not in _COUNTS:
        raise UserError(
            f"static_shapes is for the objectives {', '.join(_COUNTS)} and ar, but the objective is {objective}, which hides "
            "any number of tokens; leave it out"
        )
    if form != "any_order" or sampling == "iid":
        raise UserError(
            "static_shapes needs a bound on the labelled positions, which only loss_form any_order with noise_sampling "
            f"stratified or pairs has, but they are {form} and {sampling}; change them, or leave static_shapes out"
        )


def read_block_sizes(written: str | None) -> tuple[int, ...]:
    """The sizes of ``diffusion_block_size_schedule``, as ``1,4,16``; (): none are given.

    Raises:
        UserError: they are no rising positive integers.
    """
    if written is None:
        return ()
    texts = [text.strip() for text in written.split(",")]
    sizes = tuple(int(text) for text in texts if text.isascii() and text.isdigit())
    if len(sizes) < len(texts) or sizes[0] < 1 or sizes != tuple(sorted(set(sizes))):
        raise UserError(
            f"diffusion_block_size_schedule must be rising numbers of tokens, such as 1,4,16, got {written!r}"
        )
    return sizes


def _check_blocks(training: Mapping[str, Any]) -> None:
    if training["router_aux_loss"] is not None:
        raise UserError(
            "router_aux_loss is not there yet for the objective bd3lm; leave it out, or train with objective mdlm"
        )
    sizes, last = read_block_sizes(training.get("diffusion_block_size_schedule")), training["diffusion_block_size"]
    if sizes and last not in (None, sizes[-1]):
        raise UserError(
            f"diffusion_block_size_schedule must end with diffusion_block_size {last}, but ends with {sizes[-1]}; change one "
            "of them"
        )


def _check_law(training: Mapping[str, Any]) -> None:
    law, weight = training["count_law"], training["loss_weight"]
    try:
        power = weight_power(weight)
    except ValueError:
        power = math.nan
    if power is not None and not math.isfinite(power):
        raise UserError(f"loss_weight must be nelbo, flat or a number, the power q of k^-q, got {weight!r}")
    idle = [name for name, of in _SHAPES.items() if of != law and training[name] != getattr(DiffusionOptions, name)]
    if idle:
        raise UserError(
            f"{idle[0]} has no effect with count_law {law}; add count_law {_SHAPES[idle[0]]}, or leave {idle[0]} out"
        )
    if law == "optimal" and power is not None:
        raise UserError(
            f"count_law optimal is of the bound's own gradient, but loss_weight is {weight}; use nelbo, or another law"
        )
    if law == "optimal" and any(training.get(name) for name in ("torch_compile", "torch_compile_backend")):
        raise UserError(
            "count_law optimal measures gradients that torch.compile keeps to itself; leave torch_compile out, or use "
            "another law"
        )
    if law == "uniform" and power is None:
        return
    asked = f"count_law {law}" if law != "uniform" else f"loss_weight {weight}"
    if training["objective"] not in _COUNTS:
        raise UserError(
            f"{asked} is for the objectives {' and '.join(_COUNTS)}, but the objective is {training['objective']}, whose "
            "masks have laws of their own; leave it out, or train with objective mdlm"
        )
    if training["loss_form"] != "any_order":
        raise UserError(
            f"{asked} is of exact counts, but loss_form is {training['loss_form']}; use loss_form any_order"
        )
    if training["noise_sampling"] == "pairs":
        raise UserError(
            f"{asked} is for sequences that are read once, but noise_sampling is pairs, whose complements have the law of "
            "what is left; use stratified"
        )
