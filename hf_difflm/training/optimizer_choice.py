"""The optimiser that arguments name, or that a user has made: looked at before data and model are built."""

from __future__ import annotations

import copy
import importlib.util
import inspect
from collections.abc import Iterable
from typing import Any

import torch

from ..errors import UserError
from .declarations.complaints import complaints_about
from .declarations.typed_values import shown
from .optimization.muon import MUON, Muon
from .optimization.named import named_optimizer
from .schedule_free import SCHEDULE_FREE, refuse_second_average

_OF_MODULES = {"galore": "galore_torch", "apollo": "apollo_torch"}
"""Optimisers of certain modules of a network, by how their names begin, and their packages."""
_IN_BACKWARD = ("lomo", "adalomo")
"""Optimisers without a step of their own; the layer-wise ones are told by their names."""


def word(choice: Any) -> str:
    """The name of a choice, be it a member of an enumeration or a text."""
    return str(getattr(choice, "value", choice))


def check_named_optimizer(args: Any) -> None:
    """Look at the optimiser that arguments name, and make it for a single weight where no network is needed for that.

    Args:
        args: ``DiffusionTrainingArguments``.

    Raises:
        UserError: its package is not installed, it does not take these values or reads not all of them, or the log would
            say what no step did.
    """
    name = word(args.optim)
    of_modules = _OF_MODULES.get(name.partition("_")[0])
    if name.endswith("_layerwise") or name in _IN_BACKWARD:
        other = f"; choose {name.removesuffix('_layerwise')}" if name.endswith("_layerwise") else ""
        raise UserError(
            f"optim {name} changes each weight within the backward pass, where max_grad_norm clips nothing and of "
            f"which checkpoints keep no state, whatever the log says{other or '; choose adafactor, which is small, too'}"
        )
    if name == MUON and args.lora_r is not None:
        raise UserError(
            f"optim {MUON} makes the update of a whole matrix orthogonal, which lora_r {args.lora_r} trains as a product of "
            "two thin ones; choose another optim such as adamw_torch, or leave lora_r out"
        )
    if name != MUON and args.adamw_learning_rate is not None:
        raise UserError(
            f"adamw_learning_rate {args.adamw_learning_rate:g} is for optim {MUON}, which has two learning rates, but optim "
            f"is {name}; set learning_rate, or optim to {MUON}"
        )
    if args.optim_target_modules is not None and of_modules is None:
        raise UserError(
            f"optim_target_modules={shown(args.optim_target_modules)} is for the GaLore and APOLLO optimisers, but optim is "
            f"{name}; leave one of them out"
        )
    if name.startswith(SCHEDULE_FREE):
        if (schedule := word(args.lr_scheduler_type)) != "constant":
            raise UserError(
                f"optim {name} takes the place of a learning-rate schedule and warms up by itself (warmup_steps), but "
                f"lr_scheduler_type is {schedule}; set lr_scheduler_type to constant"
            )
        refuse_second_average(args.ema_decay, f"optim {name}")
    if args.neftune_noise_alpha is not None and args.world_size > 1:
        raise UserError(
            f"neftune_noise_alpha {args.neftune_noise_alpha:g} draws the same noise on each of {args.world_size} "
            "processes, for other rows on each; leave it out, or train in one process"
        )
    if of_modules is not None and importlib.util.find_spec(of_modules) is not None:
        return  # it is made for the modules of a network, and what it makes of its words hangs on them
    tiny: Any = torch.nn.Linear(2, 2)
    bare = _asked(args, None, tiny)
    for part in filter(None, (args.optim_args or "").replace(" ", "").split(",")):
        if _asked(args, part, tiny) == bare:  # transformers drops it without a word
            raise UserError(f"optim_args has {part!r}, which has no effect on optim {name}; leave it out")
    kind, values = _asked(args, args.optim_args, tiny)
    if inspect.isclass(kind) and (kind is Muon or kind.__module__.startswith("torch.optim")):
        made: Any = kind
        with complaints_about(f"optim {name} does not take these values", "change the one it names"):
            made(values.pop("params", tiny.parameters()), **values)


def _asked(args: Any, words: str | None, model: Any) -> tuple[Any, dict[str, Any]]:
    """Class and keyword arguments of the optimiser that ``args`` name, with other ``optim_args``."""
    asked = copy.copy(args)
    asked.optim_args = words
    beside = f"with optim_args {words!r}" if words else "here"
    advice = "change one of them" if words else "install what it names, or choose another optim such as adamw_torch"
    with complaints_about(f"optim {word(args.optim)} does not work {beside}", advice):
        return named_optimizer(asked, model)


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
