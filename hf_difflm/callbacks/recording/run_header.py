"""What the header of a run log says about a Trainer: settings, model, machine and versions."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers import TrainingArguments

from ... import __version__
from ...runs.journal.append_only import this_machine
from ...runs.journal.redaction import redact, redact_command
from ...runs.journal.schema import RunRecord
from ...runs.journal.strict_json import plain
from ..measuring.engines import compute_dtype, engine_of, sharding_of
from ..tracking.wandb_resume import HEADER_KEY, active_wandb_run


def run_record(
    args: TrainingArguments, model: torch.nn.Module | None, header: Mapping[str, Any], run_name: str, run_id: str | None
) -> RunRecord:
    """Return the header of an attempt, without secrets.

    Args:
        args: what ``config`` and ``metadata`` are read from.
        model: what ``model`` is read from.
        header: fields of :class:`RunRecord` that are known better: ``objective``, ``bound``, ``config``, ``data``,
            ``experiment_name``, ``parent_run``; the entries of its ``model`` and ``metadata`` are added to what is found.
        run_name: name of the run.
        run_id: id of the run that is resumed; None for a new one.
    """
    config = header.get("config")
    metadata = {**_metadata(args, model), "command": sys.argv, **header.get("metadata", {})}
    wandb_run = active_wandb_run()
    if wandb_run is not None:
        metadata[HEADER_KEY] = wandb_run
    if not isinstance(metadata["command"], str):
        metadata["command"] = redact_command(metadata["command"])
    found = {
        "objective": header.get("objective"),
        "bound": header.get("bound"),
        "config": args.to_dict() if config is None else config,
        "data": header.get("data", {}),
        "model": {**_model(model), **header.get("model", {})},
        "metadata": metadata,
        **{name: header[name] for name in ("experiment_name", "parent_run") if header.get(name) is not None},
    }
    nonfinite: list[str] = []
    clean = redact(plain(found, "", nonfinite))
    return RunRecord(run_name=run_name, run_id=run_id or uuid.uuid4().hex, nonfinite=nonfinite, **clean)


def _model(model: torch.nn.Module | None) -> dict[str, Any]:
    if model is None:
        return {"type": None, "parameters": None}
    config = getattr(model, "config", None)
    return {
        "type": getattr(config, "model_type", None) or type(model).__name__,
        # ZeRO-3 leaves an empty tensor where a weight was.
        "parameters": sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in model.parameters()),
        "trainable_parameters": sum(
            getattr(parameter, "ds_numel", parameter.numel())
            for parameter in model.parameters()
            if parameter.requires_grad
        ),
    }


def _metadata(args: TrainingArguments, model: torch.nn.Module | None) -> dict[str, Any]:
    device = args.device
    return {
        "world_size": args.world_size,
        "machine": this_machine(),
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "dtype": compute_dtype(args, model),
        "compile": _compiles(args),
        "engine": engine_of(args),
        "sharding": sharding_of(args),
        # As trained: what was asked for may have been divided among processes.
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "versions": {
            "hf_difflm": __version__,
            "torch": torch.__version__,
            "transformers": _version("transformers"),
            "accelerate": _version("accelerate"),
            "python": platform.python_version(),
        },
    }


def _compiles(args: TrainingArguments) -> bool:
    """Whether the model is compiled, by a flag of the Trainer's or by the launcher's configuration."""
    return bool(args.torch_compile) or os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
