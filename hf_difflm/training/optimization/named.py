"""Class and arguments of the optimiser that training arguments name: transformers' own, or Muon."""

from __future__ import annotations

from typing import Any

from transformers import Trainer

from ...errors import UserError
from .matrices import hidden_matrices
from .muon import MOMENTUM, MUON, NS_STEPS, Muon


def named_optimizer(args: Any, model: Any) -> tuple[Any, dict[str, Any]]:
    """As ``Trainer.get_optimizer_cls_and_kwargs``, which knows no Muon.

    Muon's first group are the hidden matrices of ``model``, with ``learning_rate`` and ``weight_decay``; its second all
    else, with ``adamw_learning_rate`` and without decay.

    Args:
        args: ``DiffusionTrainingArguments``.
        model: the network; see :func:`~hf_difflm.training.optimization.matrices.hidden_matrices`.

    Raises:
        UserError: Muon for a network in which no matrix is trained.
    """
    if args.optim != MUON:
        return Trainer.get_optimizer_cls_and_kwargs(args, model)
    matrices, others = hidden_matrices(model)
    if not matrices:
        raise UserError(
            f"optim {MUON} is for the weight matrices of hidden layers, and {type(model).__name__} trains none; choose "
            "another optim such as adamw_torch"
        )
    parts = filter(None, (args.optim_args or "").replace(" ", "").split(","))
    words = {name: value for name, _, value in (part.partition("=") for part in parts)}
    rate = args.learning_rate if args.adamw_learning_rate is None else args.adamw_learning_rate
    groups = [
        {"params": matrices, MUON: True, "lr": args.learning_rate, "weight_decay": args.weight_decay},
        {"params": others, MUON: False},
    ]
    return Muon, {
        "params": groups,
        "lr": rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": 0.0,
        "momentum": float(words.get("momentum", MOMENTUM)),
        "ns_steps": int(words.get("ns_steps", NS_STEPS)),
    }
