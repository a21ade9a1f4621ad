"""Liger Kernel (arXiv 2410.10989) for the network inside a denoiser: norms, rotations and feed-forward layers in Triton.

The Trainer gives the whole model to Liger, which looks at its ``model_type`` and knows causal LMs only: ``masked_diffusion``
would be left as it is, without a word. Here the backbone is patched as its own type. Liger's fused head is not for it: it
takes the head from the model it patches, at every position and without a weight for each.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import is_liger_kernel_available

from ...errors import UserError, did_you_mean
from ...models.loading import is_denoiser

_OF_THE_HEAD = ("cross_entropy", "fused_linear_cross_entropy")


def check_liger(*, on_cpu: bool) -> None:
    """Refuse ``use_liger_kernel`` where it cannot work.

    Raises:
        UserError: a training on a CPU, or the package is not installed.
    """
    if on_cpu:
        raise UserError("use_liger_kernel is set, but Liger's kernels run on GPUs only; leave it out on a CPU")
    if not is_liger_kernel_available():
        raise UserError(
            "use_liger_kernel needs the package liger-kernel (at least 0.3.0), which is not installed; install it "
            "(pip install liger-kernel), or leave use_liger_kernel out"
        )


def apply_liger(model: Any, config: Mapping[str, bool] | None, device: torch.device) -> None:
    """Put Liger's layers into the backbone of a denoiser, in place; names and values of the weights stay.

    Networks of its family that are built later in the process get them, too. A causal LM is only checked: the Trainer
    patches it.

    Args:
        model: the network, perhaps with adapters around it.
        config: ``TrainingArguments.liger_kernel_config``: which kernels to use, by Liger's own names.
        device: where training runs.

    Raises:
        UserError: see :func:`check_liger`; a backbone for which Liger has nothing; a kernel that it does not have or that is
            of the head of a causal LM.
    """
    check_liger(on_cpu=device.type == "cpu")
    patch_backbone(unwrap_peft_model(model), dict(config or {}))


def patch_backbone(model: Any, config: dict[str, bool]) -> None:
    """What :func:`apply_liger` does after its checks of the machine."""
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN, _apply_liger_kernel_to_instance

    denoises = is_denoiser(model.config)
    network = model.backbone if denoises else model
    kind = network.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(f"use_liger_kernel is set, but Liger has no kernels for {kind}; leave it out")
    takes = [name for name in inspect.signature(MODEL_TYPE_TO_APPLY_LIGER_FN[kind]).parameters if name != "model"]
    if denoises:
        takes = [name for name in takes if name not in _OF_THE_HEAD]
        wanted = [name for name in _OF_THE_HEAD if config.get(name)]
        if wanted:
            raise UserError(
                f"liger_kernel_config asks for {wanted[0]}, which is for the head of a causal LM; leave it out: the head of "
                "masked diffusion runs at labelled positions only"
            )
    unknown = [name for name in config if name not in (*takes, *_OF_THE_HEAD)]
    if unknown:
        hint = did_you_mean(unknown[0], takes) or f"; there are {', '.join(takes)}"
        raise UserError(f"liger_kernel_config has a key {unknown[0]!r} that Liger does not have for {kind}{hint}")
    if denoises:
        _apply_liger_kernel_to_instance(model=network, **(config | dict.fromkeys(_OF_THE_HEAD, False)))


__all__ = ["apply_liger", "check_liger", "patch_backbone"]
