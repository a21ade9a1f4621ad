"""``importance.safetensors``: what adaptive masking has learned, beside a model that loads without it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ...errors import UserError
from .importance import ImportanceEstimator
from .importance_values import ImportanceReader
from .settings import AdaptiveSettings

IMPORTANCE_FILE = "importance.safetensors"

_COUNTS = "token_counts"


def write_importance(
    folder: Path, settings: AdaptiveSettings, networks: nn.ModuleDict | None, counts_V: np.ndarray | None
) -> None:
    """Write the file into an existing folder.

    Args:
        folder: where a model is saved.
        settings: of the objective.
        networks: what was trained beside the model, if anything.
        counts_V: (V,) token counts of the training data, if they were needed.
    """
    about: dict[str, object] = {"format_version": 1, "settings": asdict(settings)}
    tensors: dict[str, torch.Tensor] = {}
    if networks is not None:
        tensors = {name: value.detach().cpu().contiguous() for name, value in networks.state_dict().items()}
        estimator = networks["importance"]
        about["hidden_size"] = estimator.hidden_size
        about["num_attention_heads"] = estimator.num_attention_heads
    if counts_V is not None:
        tensors[_COUNTS] = torch.from_numpy(np.asarray(counts_V, dtype=np.int64))
    save_file(tensors, folder / IMPORTANCE_FILE, metadata={"about": json.dumps(about)})


def load_into(folder: Path, networks: nn.ModuleDict) -> None:
    """Put the saved weights into the networks of a run with the same settings.

    Raises:
        UserError: there is no such file, or it holds other networks.
    """
    tensors, _ = _read(folder)
    tensors.pop(_COUNTS, None)
    try:
        networks.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{folder / IMPORTANCE_FILE} holds networks of other sizes or settings than this run's; resume with the options "
            "it was trained with"
        ) from error


def load_importance(folder: Path, device: torch.device | str = "cpu") -> tuple[ImportanceReader, AdaptiveSettings]:
    """What reads the importance of clean text, from a saved folder, and the settings it was trained with.

    Args:
        folder: a checkpoint or ``best/`` of a run with the objective ``atat``.
        device: where the model is.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    tensors, about = _read(folder)
    settings = AdaptiveSettings(**about["settings"])
    counts = tensors.pop(_COUNTS, None)
    estimator = None
    if settings.learns:
        estimator = ImportanceEstimator(about["hidden_size"], about["num_attention_heads"])
        prefix = "importance."
        weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        estimator.load_state_dict(weights)
        estimator.eval().to(device)
    return ImportanceReader(settings, estimator, None if counts is None else counts.numpy()), settings


def _read(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    path = folder / IMPORTANCE_FILE
    if not path.is_file():
        raise UserError(
            f"{folder} has no {IMPORTANCE_FILE}; it is written by runs with the objective atat whose importance is not none"
        )
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {}).get("about", "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if about.get("format_version") != 1:
        raise UserError(f"{path} is not of a format this version reads; it was written by another version")
    return tensors, about
