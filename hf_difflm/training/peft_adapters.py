"""LoRA (arXiv 2106.09685): small matrices beside the dense layers of a network, trained instead of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError, did_you_mean
from ..models.adapters import inject, require_peft

ALL_LINEAR = "all-linear"
_ENGINES = ("single", "ddp")
# The place of a downloaded model in the cache of huggingface_hub.
_SNAPSHOT = re.compile(r".*models--([^/]+)--([^/]+)/snapshots/([0-9a-f]+)/?")


def with_adapters(model: Any, args: Any) -> Any:
    """Put fresh adapters beside the dense layers of ``model``, as the arguments say, and freeze all else; in place.

    Their initial weights follow from the seed: the second matrix is zero, so the network predicts what it did before.

    Args:
        model: a transformers model; one that has adapters already is left as it is.
        args: :class:`DiffusionTrainingArguments`; nothing is done where ``lora_r`` is None.

    Raises:
        UserError: PEFT is not installed, there is no such module, or it is one whose weight is read without its module.
    """
    if args.lora_r is None or getattr(model, "_hf_peft_config_loaded", False):
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
        target_modules=ALL_LINEAR if args.lora_target_modules is None else _checked(model, args.lora_target_modules),
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


def merging_parameters(model: nn.Module) -> int:
    """How many weights there are twice, and for a moment thrice, while the adapters in ``model`` are merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    sizes = [layer.get_base_layer().weight.numel() for layer in layers]
    return sum(sizes) + max(sizes, default=0)


def base_name(path: str) -> tuple[str | None, str | None]:
    """What an adapter says of its network: OWNER/NAME and commit where that came from the Hub, else an absolute path."""
    if found := _SNAPSHOT.fullmatch(path):
        return f"{found[1]}/{found[2]}", found[3]
    if path and Path(path).is_dir():
        return str(Path(path).resolve()), None
    return path or None, None


def _checked(model: Any, targets: list[str]) -> list[str]:
    """Names of modules, each of which some dense layer's name ends in.

    Raises:
        UserError: one is no dense layer, or has a weight that the network reads itself (head, embedding).
    """
    outer = {id(module) for module in (model.get_output_embeddings(), model.get_input_embeddings())}
    dense = {name: module for name, module in model.named_modules() if _is_dense(module) or id(module) in outer}
    for target in targets:
        hit = [module for name, module in dense.items() if name == target or name.endswith(f".{target}")]
        known = sorted({name.rpartition(".")[2] for name, module in dense.items() if id(module) not in outer})
        if any(id(module) in outer for module in hit):
            raise UserError(
                f"lora_target_modules {target} is the embedding or the LM head, whose weight is read directly; choose among "
                f"{', '.join(known)}"
            )
        if not hit:
            raise UserError(
                f"lora_target_modules {target!r} is no dense layer of this {type(model).__name__}, those are "
                f"{', '.join(known)}{did_you_mean(target, known)}"
            )
    return targets


def _is_dense(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's
