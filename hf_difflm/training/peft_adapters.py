"""LoRA (arXiv 2106.09685): small matrices beside the dense layers of a network, trained instead of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import UserError, did_you_mean
from ..models.adapters.files import inject
from ..models.adapters.folders import base_name
from ..models.adapters.kinds import require_peft
from ..models.adapters.merging import has_adapters

ALL_LINEAR = "all-linear"
_ENGINES = ("single", "ddp")


def with_adapters(model: Any, args: Any) -> Any:
    """Put fresh adapters beside the dense layers of ``model``, as the arguments say, and freeze all else; in place.

    Their initial weights follow from the seed: the second matrix is zero, so the network predicts what it did before.

    Args:
        model: a transformers model; one that has adapters already is left as it is.
        args: :class:`DiffusionTrainingArguments`; nothing is done where ``lora_r`` is None.

    Raises:
        UserError: PEFT is not installed, or there is no such module.
    """
    if args.lora_r is None or has_adapters(model):
        return model
    require_peft(f"lora_r {args.lora_r}")
    from peft import LoraConfig

    if model is None:
        raise UserError("lora_r adapts a model that exists; pass model instead of model_init")
    base, revision = base_name(getattr(model, "name_or_path", "") or "")
    config = LoraConfig(
        r=args.lora_r,
        lora_alpha=args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules=_checked(model, args.lora_target_modules or [ALL_LINEAR]),
        base_model_name_or_path=base,
        revision=revision,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        inject(model, config)
    return model


def check_engine(engine: str) -> None:
    """Raise UserError where an engine shards weights: PEFT's layers would have to be put together to be merged."""
    if engine not in _ENGINES:
        raise UserError(
            f"lora_r does not train under {engine}, which shards the weights that adapters are merged into; launch with "
            "accelerate_configs/ddp.yaml, or leave lora_r out"
        )


def _checked(model: Any, targets: list[str]) -> list[str] | str:
    """Names of modules, each of which some dense layer's, the embedding's or the LM head's name ends in; or all dense layers.

    Raises:
        UserError: one is none of them, or all dense layers stand among others.
    """
    if targets == [ALL_LINEAR]:
        return ALL_LINEAR
    if ALL_LINEAR in targets:
        raise UserError(
            f"lora_target_modules {','.join(targets)} names all dense layers and others, but {ALL_LINEAR} stands alone; name "
            "the layers, or leave the others out"
        )
    outer = {id(module) for module in (model.get_output_embeddings(), model.get_input_embeddings())}
    names = [name for name, module in model.named_modules() if _is_dense(module) or id(module) in outer]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rpartition(".")[2] for name in names})
            raise UserError(
                f"lora_target_modules {target!r} is no dense layer of this {type(model).__name__}, those are {ALL_LINEAR} or "
                f"{', '.join(known)}{did_you_mean(target, known)}"
            )
    return targets


def _is_dense(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's
