"""The schedule ``warmup_stable_decay``, whose decay may be told as a share of all steps.

The rate rises, stays, and falls to 0 at the end (arXiv 2405.18392; 2404.06395). ``decay_ratio`` is torchtitan's name for the
share of the steps that it falls in, and, as there, it falls linearly unless ``decay_type`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import UserError

STABLE_DECAY = "warmup_stable_decay"
DECAY_RATIO = "decay_ratio"
_STEPS = "num_decay_steps"


def stable_decay_kwargs(given: Mapping[str, Any], warmup: int, steps: int | None) -> dict[str, Any]:
    """Return what transformers' schedule takes.

    Args:
        given: ``lr_scheduler_kwargs``; ``decay_ratio`` in the place of ``num_decay_steps``.
        warmup: steps of the warm-up.
        steps: optimiser steps of the whole training; None where they are not known yet.

    Returns:
        ``given`` with ``num_decay_steps``: one step where ``steps`` is None and a share was given.

    Raises:
        UserError: it is not said how long the rate decays, or in two ways; a number of steps that is a share, or the other
            way round; warm-up and decay that do not fit into the steps.
    """
    told = f"lr_scheduler_type {STABLE_DECAY} does not work with lr_scheduler_kwargs {dict(given)!r}"
    if (DECAY_RATIO in given) == (_STEPS in given):
        what = "they say twice" if _STEPS in given else "they do not say"
        raise UserError(
            f"{told}: {what} how long the rate decays; give it either {DECAY_RATIO}, a share of all steps such as 0.3, or "
            f"{_STEPS}"
        )
    kwargs = dict(given)
    if DECAY_RATIO in given:
        ratio = kwargs.pop(DECAY_RATIO)
        if not _is_number(ratio) or not 0 < ratio <= 1:
            raise UserError(f"{told}: {DECAY_RATIO} is a share of all steps; give a number above 0 and at most 1")
        if "num_stable_steps" in given:
            raise UserError(
                f"{told}: what is left beside warm-up and {DECAY_RATIO} is stable; leave num_stable_steps out"
            )
        kwargs[_STEPS] = 1 if steps is None else max(1, round(ratio * steps))
        kwargs.setdefault("decay_type", "linear")
    decay = kwargs[_STEPS]
    if not _is_number(decay) or decay < 1 or decay != int(decay):
        raise UserError(
            f"{told}: {_STEPS} is a whole number of steps; give one, or {DECAY_RATIO} for a share of all steps"
        )
    needed = warmup + decay + (kwargs.get("num_stable_steps") or 0)
    if steps is not None and needed > steps:
        raise UserError(
            f"{told}: {warmup} steps of warm-up and {needed - warmup} until the decay ends are more than the {steps} of the "
            f"training; lower warmup_steps or {DECAY_RATIO if DECAY_RATIO in given else _STEPS}"
        )
    return kwargs


def decay_start(given: Mapping[str, Any], steps: int) -> int | None:
    """The optimiser step (from 0) at which the decay begins in a training of ``steps`` steps; None where it is not said."""
    if _is_number(given.get(DECAY_RATIO)):
        return steps - max(1, round(given[DECAY_RATIO] * steps))
    return steps - int(given[_STEPS]) if _is_number(given.get(_STEPS)) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
