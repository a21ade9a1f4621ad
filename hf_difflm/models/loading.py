"""The network in a model folder: a masked diffusion model or a causal LM, from safetensors, by code that is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM

from .. import models
from ..errors import UserError, first_line
from .adapters.files import load_merged
from .adapters.folders import AVERAGES, base_of, is_adapter_folder
from .file_names import TOKENIZER_CONFIG
from .hub_source import hub_folder
from .untrusted import refuse_unsafe

if TYPE_CHECKING:
    from transformers import PreTrainedConfig  # called so from transformers 5 on

_TOKENIZER = (TOKENIZER_CONFIG, "tokenizer.json")
_BROKEN = (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


def is_denoiser(config: PreTrainedConfig) -> bool:
    """Whether a configuration is that of a masked diffusion model."""
    return config.model_type == "masked_diffusion"


def load_config(folder: Path, name: str) -> PreTrainedConfig:
    """The configuration in a model folder; of an adapter that of its network.

    Args:
        folder: the folder; it is checked.
        name: what the user knows it as.

    Raises:
        UserError: it cannot be read, or the model cannot be trusted (:func:`refuse_unsafe`).
    """
    if is_adapter_folder(folder):
        return load_config(*network_of(folder, name))
    refuse_unsafe(folder, name)
    return config_of(folder, name)


def config_of(folder: Path, name: str) -> PreTrainedConfig:
    """The configuration in a folder that was checked.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except _BROKEN as error:
        raise _cannot(name, error) from error


def load_model(folder: Path, name: str, config: PreTrainedConfig | None = None, **options: Any) -> Any:
    """The network in a model folder: hf_difflm's own class for a masked diffusion model, whatever ``auto_map`` says.

    Of an adapter it is its network with the adapter (its moving average, where there is one) merged in.

    Args:
        folder: the folder; it is checked.
        name: what the user knows it as.
        config: the configuration, where it shall be another than the one in the folder.
        options: of ``from_pretrained``.

    Raises:
        UserError: neither kind of model, weights missing or damaged, or a model that cannot be trusted
            (:func:`refuse_unsafe`).
    """
    if is_adapter_folder(folder):
        network = load_model(*network_of(folder, name), config, **options)
        return load_merged(network, folder, name, folder / AVERAGES)
    config = config or load_config(folder, name)
    kind: Any = models.MaskedDiffusionForMaskedLM if is_denoiser(config) else AutoModelForCausalLM
    try:
        model, found = kind.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except _BROKEN as error:
        raise _cannot(name, error) from error
    if found["missing_keys"]:
        kinds = ", ".join(config.architectures or [config.model_type])
        raise UserError(
            f"{_what(name)}: it is a {kinds}, without the weights {sorted(found['missing_keys'])[0]}; give another"
        )
    return model


def tokenizer_folder(folder: Path, name: str) -> Path:
    """Where the tokenizer of a model folder is: of an adapter without one, which PEFT writes, beside its network.

    Raises:
        UserError: it is an adapter whose network is not there.
    """
    if is_adapter_folder(folder) and not any((folder / file).exists() for file in _TOKENIZER):
        return tokenizer_folder(*network_of(folder, name))
    return folder


def network_of(folder: Path, name: str) -> tuple[Path, str]:
    """The model folder that an adapter belongs to, and what to call it.

    Raises:
        UserError: it is not there, or the adapter does not say which it is.
    """
    base, revision = base_of(folder, name)
    if Path(base).is_dir() and Path(base).resolve() != folder.resolve():
        return Path(base), base
    if base.count("/") != 1 or base.startswith(("/", ".")):
        raise UserError(f"{name} is an adapter of {base}, which is not there; put it back, or give a merged model")
    return hub_folder(base, revision), base


def _what(name: str) -> str:
    return f"{name} cannot be loaded as a masked diffusion model or a causal LM"


def _cannot(name: str, error: Exception) -> UserError:
    return UserError(f"{_what(name)}: {first_line(error)}; give another")
