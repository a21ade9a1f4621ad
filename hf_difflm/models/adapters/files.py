"""Adapters as PEFT writes them: put into a network, saved, loaded; and a network loaded with one merged in."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ...errors import UserError, first_line
from .folders import ADAPTER_WEIGHTS, adapter_config
from .kinds import refuse_kind, require_peft
from .merging import ADAPTER, config_of, merge, without_wrapper

_PREFIX = "base_model.model."  # of the names in PEFT's files
_BROKEN = (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, SafetensorError)


def load_merged(model: Any, folder: Path, name: str, averaged: Path | None = None) -> Any:
    """Return ``model`` with the adapter in ``folder`` merged into its weights: a network like any other.

    Its embeddings grow where the adapter was trained beside more rows.

    Args:
        model: the network that the adapter belongs to.
        folder: of the adapter.
        name: what the user knows it as.
        averaged: safetensors with moving averages of the adapter's weights, which are used where there are any.

    Raises:
        UserError: PEFT is not installed; the adapter is a pickle, damaged, one of another network, or of a kind that cannot
            be merged.
    """
    require_peft(f"loading the adapter {name}")
    from peft import PeftConfig, PeftModel

    if not (folder / ADAPTER_WEIGHTS).exists():
        raise UserError(f"{name} holds no {ADAPTER_WEIGHTS}; give an adapter whose weights are safetensors")
    refuse_kind(adapter_config(folder, name), f"the adapter {name}")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.task_type = None  # whose wrapper asks more of a network than its weights
        weights = load_file(folder / ADAPTER_WEIGHTS)
        _grow(model, weights)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(missing adapter keys|tie_word_embeddings)")  # told below
            adapted = PeftModel.from_pretrained(model, str(folder), config=config)
        _check_fits(adapted, weights, name)
        if averaged is not None and averaged.exists():
            _copy_averages(adapted, load_file(averaged))
        model = merge(adapted.get_base_model())
        model.requires_grad_(True)
        model.name_or_path = str(folder)  # an adapter of what this is now belongs to it, and not to what it was
    except _BROKEN as error:
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


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapter of ``model`` alone; whole embeddings only where they have other rows than those of its network."""
    config = config_of(model)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: tensor.detach().cpu().clone().contiguous() for key, tensor in _state(model, _has_grown(model)).items()
    }
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    inference, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = inference


def load_adapter(model: Any, folder: Path, name: str) -> None:
    """Give the adapters in ``model`` the weights in a folder.

    Raises:
        UserError: they are of another network or another shape.
    """
    from peft import set_peft_model_state_dict

    weights = load_file(folder / ADAPTER_WEIGHTS)
    _check_fits(model, weights, name)
    is_inside = without_wrapper(model) is model
    state = {key.removeprefix(_PREFIX) if is_inside else key: tensor for key, tensor in weights.items()}
    set_peft_model_state_dict(model, state, adapter_name=ADAPTER)


def _state(model: Any, whole_embeddings: bool) -> dict[str, torch.Tensor]:
    """The weights of the adapter by their names in PEFT's files."""
    from peft import get_peft_model_state_dict

    network = without_wrapper(model)
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=whole_embeddings)
    if network is model:
        state = {f"{_PREFIX}{key}": tensor for key, tensor in state.items()}
    for name in _table_names(network) if whole_embeddings else ():  # PEFT takes the adapted one of two alone
        table = network.get_submodule(name)
        if isinstance(table, (nn.Linear, nn.Embedding)):
            state.setdefault(f"{_PREFIX}{name}.weight", table.weight)
    return state


def _check_fits(model: Any, weights: dict[str, torch.Tensor], name: str) -> None:
    """Raise UserError where a file has not exactly the weights of the adapter, embeddings that PEFT adds apart."""
    room = set(_state(model, False))
    given = weights.keys() - (_whole_embeddings(without_wrapper(model)) - room)
    if given != room:
        raise UserError(
            f"the adapter {name} has {len(given)} weights where its network has room for {len(room)}; give the network that "
            "it was made of"
        )


def _table_names(network: Any) -> list[str]:
    """Names of embedding and head, without what adapters put around them."""
    tables = [network.get_input_embeddings(), network.get_output_embeddings()]
    return [name for name, module in network.named_modules() if any(module is table for table in tables)]


def _whole_embeddings(network: Any) -> set[str]:
    tokens = ("token_adapter.base_layer.weight", "token_adapter.trainable_tokens_delta")
    ends = ("weight", "bias", "base_layer.weight", "base_layer.bias", *tokens)
    return {f"{_PREFIX}{name}.{end}" for name in _table_names(network) for end in ends}


def _grow(network: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give the network as many rows of embeddings as the adapter has; one that has fewer does not fit."""
    rows = network.get_input_embeddings().weight.shape[0]
    for name in _table_names(network):
        for end in (
            "weight",
            "base_layer.weight",
            "token_adapter.base_layer.weight",
            "lora_B.weight",
            "lora_embedding_A",
        ):
            tensor = weights.get(f"{_PREFIX}{name}.{end}")
            rows = rows if tensor is None else max(rows, tensor.shape[-1 if end == "lora_embedding_A" else 0])
    if rows > network.get_input_embeddings().weight.shape[0]:
        network.resize_token_embeddings(rows, mean_resizing=False)


def _has_grown(model: Any) -> bool:
    """Whether the embeddings may have other rows than those of the network in its folder; PEFT would ask the Hub for it."""
    network = without_wrapper(model)
    base = network.name_or_path
    if not base:
        return False
    place: Any = Path(base) / "config.json" if Path(base).is_dir() else try_to_load_from_cache(base, "config.json")
    try:
        config = json.loads(Path(place).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return True
    return config.get("vocab_size", config.get("backbone_config", {}).get("vocab_size")) != network.config.vocab_size


def _copy_averages(model: nn.Module, averages: dict[str, torch.Tensor]) -> None:
    own = dict(model.named_parameters())
    with torch.no_grad():
        for key, tensor in averages.items():
            own[_PREFIX + key.removeprefix(_PREFIX)].copy_(tensor)
