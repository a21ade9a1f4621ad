"""Telling the folder of an adapter, and whose it is.

It is one of PEFT's own: ``adapter_config.json``, which names the network that the adapter belongs to, and
``adapter_model.safetensors``. It has no ``config.json``: the network is elsewhere.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...errors import UserError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MERGED_ADAPTER = "adapter"
"""The folder in a model folder with the adapter that is merged into its weights."""
AVERAGES = "ema.safetensors"
"""Moving averages of an adapter's weights, in a checkpoint; the name that all checkpoints have for it."""
# The place of a downloaded model in the cache of huggingface_hub.
_SNAPSHOT = re.compile(r".*models--([^/]+)--([^/]+)/snapshots/([0-9a-f]+)/?")


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a network."""
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds a network, or an adapter of one."""
    return (folder / "config.json").exists() or is_adapter_folder(folder)


def adapter_config(folder: Path, name: str) -> dict[str, Any]:
    """What ``adapter_config.json`` says.

    Args:
        folder: of the adapter.
        name: what the user knows it as.

    Raises:
        UserError: it cannot be read.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is no JSON object")
        config["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{ADAPTER_CONFIG} of {name} cannot be read ({error}); give another adapter") from error
    return config


def base_of(folder: Path, name: str) -> tuple[str, str | None]:
    """Return the network that an adapter belongs to, a folder or a name on the Hub, and its revision there.

    Args:
        folder: of the adapter.
        name: what the user knows it as.

    Raises:
        UserError: its configuration cannot be read, or names no network.
    """
    config = adapter_config(folder, name)
    base, revision = config["base_model_name_or_path"], config.get("revision")
    if not isinstance(base, str) or not base:
        raise UserError(f"{name} is an adapter that does not say of which network; merge it into its network")
    return base, revision


def base_name(path: str) -> tuple[str | None, str | None]:
    """What an adapter says of its network: OWNER/NAME and commit where that came from the Hub, else an absolute path."""
    if found := _SNAPSHOT.fullmatch(path):
        return f"{found[1]}/{found[2]}", found[3]
    if path and Path(path).is_dir():
        return str(Path(path).resolve()), None
    return path or None, None
