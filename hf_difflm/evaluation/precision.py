"""In which type a model is evaluated: the one declaration behind the flag, and what a result says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class PrecisionOptions:
    """Options of evaluations beside those of a training."""

    dtype: str = field(
        default="float32",
        metadata={
            "help": "type in which weights are held and computed with, whatever the files hold",
            "choices": DTYPES,
        },
    )


def dtype_of_weights(changes: Mapping[str, Any]) -> str:
    """The type to load weights in, for an evaluation with these settings: float32 unless another is given.

    A likelihood in bfloat16 has an error that no standard error tells, and that of the files is a matter of storage.

    Raises:
        UserError: autocast is asked for besides.
    """
    dtype = str(changes.get("dtype") or PrecisionOptions.dtype)
    if changes.get("bf16") and dtype != "float32":
        raise UserError(
            f"--bf16 computes in bfloat16 with weights in float32, but --dtype is {dtype}; give one of them"
        )
    return dtype


def computed_in(model: Any, bf16: bool) -> str:
    """What a model computes in: bfloat16 under autocast, else the type of its weights."""
    return "bfloat16" if bf16 else str(model.dtype).removeprefix("torch.")
