"""The optimiser that arguments name, or that a user has made: looked at before data and model are built."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable
from typing import Any

import torch
from transformers import Trainer

from ..errors import UserError
from .declarations.complaints import complaints_about

_OF_MODULES = {"galore": "galore_torch", "apollo": "apollo_torch"}
"""Optimisers of certain modules of a network, by how their names begin, and their packages."""


def check_named_optimizer(args: Any) -> None:
    """Make the optimiser that ``args`` name for a single weight, where that is possible without a network.

    Raises:
        UserError: its package is not installed, or it does not take these values.
    """
    name = str(getattr(args.optim, "value", args.optim))
    package = _OF_MODULES.get(name.partition("_")[0])
    if package is not None and importlib.util.find_spec(package) is not None:
        return  # it is made for the modules of a network
    tiny: Any = torch.nn.Linear(1, 1)
    advice = "install what it names, or choose another optim such as adamw_torch"
    with complaints_about(f"optim {name} does not work here", advice):
        kind, arguments = Trainer.get_optimizer_cls_and_kwargs(args, tiny)
    if inspect.isclass(kind) and kind.__module__.startswith("torch.optim"):
        made: Any = kind
        with complaints_about(f"optim {name} does not take these values", "change the one it names"):
            made(tiny.parameters(), **arguments)


def check_given_optimizer(
    optimizer: Any, kind: tuple[Any, dict[str, Any]] | None, parameters: Iterable[torch.nn.Parameter]
) -> str | None:
    """Return in words what optimiser a user has given, in the place of the one that the arguments name; None without one.

    Args:
        optimizer: made already.
        kind: or its class and keyword arguments.
        parameters: what is trained.

    Raises:
        UserError: it was made for other weights, which it would train in the place of these.
    """
    if kind is not None:
        return f"{kind[0].__name__} {kind[1]!r}"
    if optimizer is None:
        return None
    own = {id(p) for p in parameters}
    given = [p for group in optimizer.param_groups for p in group["params"]]
    foreign = sum(id(p) not in own for p in given)
    if foreign:
        raise UserError(
            f"{foreign} of the {len(given)} tensors that the given {type(optimizer).__name__} trains are none of the "
            "model's; make it of model.parameters() of the model that is passed, or leave optimizers out"
        )
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    return f"{type(optimizer).__name__} {groups[0] if len(groups) == 1 else groups!r}"
