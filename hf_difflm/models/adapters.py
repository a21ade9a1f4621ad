"""Low-rank adapters (LoRA, arXiv 2106.09685) beside a network: telling their folders, merging them, loading them merged.

A folder of an adapter is one of PEFT's own: ``adapter_config.json``, which names the network it belongs to, and
``adapter_model.safetensors``. It has no ``config.json``: the network is elsewhere.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import UserError, first_line

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER = "default"
"""The name that PEFT gives an adapter."""
MERGED_ADAPTER = "adapter"
"""The folder in a model folder with the adapter that is merged into its weights."""
AVERAGES = "ema.safetensors"
"""Moving averages of an adapter's weights, in a checkpoint; the name that all checkpoints have for it."""
_PREFIX = "base_model.model."  # of the names in PEFT's files


def require_peft(why: str) -> None:
    """Raise UserError where PEFT is not installed; ``why`` begins the sentence."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UserError(f"{why} needs the package peft; install it with `pip install 'hf_difflm[peft]'`") from error


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a network."""
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a network, or an adapter of one."""
    return (folder / "config.json").exists() or is_adapter_folder(folder)


def base_of(folder: Path, name: str) -> tuple[str, str | None]:
    """Return the network that an adapter belongs to, a folder or a name on the Hub, and its revision there.

    Args:
        folder: of the adapter.
        name: what the user knows it as.

    Raises:
        UserError: its configuration cannot be read, or names no network.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base, revision = config["base_model_name_or_path"], config.get("revision")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{ADAPTER_CONFIG} of {name} cannot be read ({error}); give another adapter") from error
    if not isinstance(base, str) or not base:
        raise UserError(f"{name} is an adapter that does not say of which network; merge it into its network")
    return base, revision


def load_merged(model: Any, folder: Path, name: str, averaged: Path | None = None) -> Any:
    """Return ``model`` with the adapter in ``folder`` merged into its weights: a network like any other.

    Args:
        model: the network that the adapter belongs to.
        folder: of the adapter.
        name: what the user knows it as.
        averaged: safetensors with moving averages of the adapter's weights, which are used where there are any.

    Raises:
        UserError: PEFT is not installed; the adapter is a pickle, damaged, or one of another network.
    """
    require_peft(f"loading the adapter {name}")
    from peft import PeftConfig

    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{name} holds no {ADAPTER_WEIGHTS}; give an adapter whose weights are safetensors")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        inject(model, config)
        load_adapter(model, folder, name)
        if averaged is not None and averaged.exists():
            _copy_averages(model, load_file(averaged))
        with merged(model) as finish:
            finish()
        model.name_or_path = str(folder)  # an adapter of what this is now belongs to it, and not to what it was
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the adapter {name} does not fit its network ({first_line(error)}); give the network that it was made of"
        ) from error
    return model


def inject(model: Any, config: Any) -> None:
    """Put fresh adapters into ``model`` as a PEFT configuration says; it stays of its class, and all else is frozen."""
    base = config.base_model_name_or_path
    model.add_adapter(config, ADAPTER)
    config.base_model_name_or_path = base  # which transformers overwrites


def load_adapter(model: nn.Module, folder: Path, name: str) -> None:
    """Give the adapters in ``model`` the weights in a folder.

    Raises:
        UserError: they are of another network or another shape.
    """
    from peft import set_peft_model_state_dict

    weights = load_file(folder / ADAPTER_WEIGHTS)
    state = {key.removeprefix(_PREFIX): tensor for key, tensor in weights.items()}
    expected = sum("lora_" in key for key in model.state_dict())
    given = sum("lora_" in key for key in state)  # PEFT adds embeddings that have grown
    found: Any = set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
    if found.unexpected_keys or given != expected:
        raise UserError(
            f"the adapter {name} has {given} weights where its network has room for {expected}; give the network that it "
            "was made of"
        )


def _copy_averages(model: nn.Module, averages: dict[str, torch.Tensor]) -> None:
    own = dict(model.named_parameters())
    with torch.no_grad():
        for key, tensor in averages.items():
            own[key].copy_(tensor)


@contextmanager
def merged(model: Any) -> Iterator[Callable[[], None]]:
    """Inside the block ``model`` is the plain network with its adapters merged in; after it, what it was, bit for bit.

    Yields:
        a function that makes it stay so.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped: dict[str, Any] = {
        name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)
    }
    stays = False

    def finish() -> None:
        nonlocal stays
        stays = True

    for name, module in wrapped.items():
        base: Any = module.get_base_layer()
        plain = copy.copy(base)  # shares all but the weight, of which there are two for as long as this lasts
        delta = module.get_delta_weight(ADAPTER).detach()
        weight = nn.Parameter(
            (base.weight.detach() + delta.to(base.weight.dtype)), requires_grad=base.weight.requires_grad
        )
        plain._parameters = {**base._parameters, "weight": weight}
        _put(model, name, plain)
    model._hf_peft_config_loaded = False
    try:
        yield finish
    finally:
        if not stays:
            for name, module in wrapped.items():
                _put(model, name, module)
            model._hf_peft_config_loaded = True
        else:
            model.requires_grad_(True)
            vars(model).pop("peft_config", None)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
