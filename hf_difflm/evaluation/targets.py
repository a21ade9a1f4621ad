"""What ``eval`` and ``generate`` are pointed at: a run, a checkpoint, a model folder, a model on the Hub."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..data import DataOptions
from ..errors import UserError
from ..models import MaskedDiffusionForMaskedLM, register_auto_classes
from ..runs import load_run
from ..runs.checkpoints import EMA_FILE, MANIFEST, checkpoints, damage, newest_good
from ..runs.files import JOURNAL_NAME


@dataclass
class Target:
    """A model ready for use.

    Args:
        model: the network, in evaluation mode.
        tokenizer: its tokenizer.
        is_denoiser: whether it is a masked diffusion model (else a causal LM).
        source: what was loaded, for the user.
        config: settings of the run it comes from; empty where it carries no run log.
        step: optimiser steps behind it, where known.
    """

    model: Any
    tokenizer: Any
    is_denoiser: bool
    source: str
    config: dict[str, Any]
    step: int | None


def load_target(target: str, *, use_cpu: bool = False) -> Target:
    """Load a model: of a run the best weights, else its newest good checkpoint; of a checkpoint the averaged weights.

    Raises:
        UserError: nothing there, nothing trained yet, damaged, or a model of another kind.
    """
    path = Path(target)
    if path.is_dir():
        weights, run_folder = _in_folder(path)
        if why := _damage(weights):
            raise UserError(f"{weights} cannot be trusted: {why}; take another checkpoint of the run")
    elif path.exists():
        raise UserError(f"{target} is a file; give a run, a checkpoint or a model folder")
    elif target.count("/") != 1 or target.startswith((".", "/", "~", "runs/")) or path.parent.is_dir():
        # A missing folder inside one that is there, or in the default place of runs, is a slip and not a name on the Hub.
        raise UserError(f"{target} does not exist; give a run, a checkpoint, a model folder or OWNER/NAME on the Hub")
    else:
        weights, run_folder = None, None
    model, tokenizer, is_denoiser = _load(str(weights or target))
    if weights is not None and (weights / EMA_FILE).exists():
        model.load_state_dict(load_file(weights / EMA_FILE), strict=False)  # tied weights are in the file once
    model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() and not use_cpu else "cpu")
    return Target(
        model=model.eval(),
        tokenizer=tokenizer,
        is_denoiser=is_denoiser,
        source=str(weights or target),
        config=load_run(run_folder).config if run_folder else {},
        step=_step_of(run_folder, weights) if run_folder and weights else None,
    )


def _in_folder(path: Path) -> tuple[Path, Path | None]:
    """The folder of the weights that ``path`` stands for, and the folder of its run where that keeps a log."""
    if (path / JOURNAL_NAME).exists() or (path / "best").is_dir() or checkpoints(path):
        return _weights_of_run(path), path if (path / JOURNAL_NAME).exists() else None
    if not (path / "config.json").exists():
        if inside := sorted(file.parent.name for file in path.glob(f"*/{JOURNAL_NAME}")):
            raise UserError(f"{path} is not a run, but holds the runs {', '.join(inside)}; give one of them")
        raise UserError(f"{path} holds no run and no model; give a run, a checkpoint or a model folder")
    return path, path.parent if (path.parent / JOURNAL_NAME).exists() else None


def _damage(weights: Path) -> str | None:
    return damage(weights) if (weights / MANIFEST).exists() or weights.name.startswith("checkpoint-") else None


def data_options(target: Target, changes: dict[str, Any]) -> DataOptions:
    """The data a target is evaluated on: that of its run, unless ``changes`` say otherwise.

    Raises:
        UserError: it carries no run log and no data set was named.
    """
    names = {field.name for field in dataclasses.fields(DataOptions)}
    if "dataset" not in target.config and "dataset" not in changes:
        raise UserError(f"{target.source} carries no run log that says what to evaluate on; add --dataset")
    values = {name: value for name, value in target.config.items() if name in names}
    if "dataset" in changes:  # another data set has its own splits and limits
        for name in ("dataset_config", "eval_split", "eval_dataset", "max_eval_blocks"):
            values.pop(name, None)
    if "eval_split" in changes:
        values.pop("eval_dataset", None)
    values.update({name: value for name, value in changes.items() if name in names})
    options = DataOptions(**values)
    limit = getattr(target.model.config, "max_position_embeddings", None)
    if limit is not None and options.block_size > limit:
        raise UserError(
            f"block_size must be at most the {limit} tokens that {target.source} takes, got {options.block_size}"
        )
    return options


def _weights_of_run(run: Path) -> Path:
    if (run / "best" / "config.json").exists():
        return run / "best"
    checkpoint, _ = newest_good(run)
    if checkpoint is None:
        raise UserError(
            f"{run} has neither best/ nor a finished checkpoint; let it train longer, or set its save_steps and save_strategy"
        )
    return checkpoint


def _step_of(run: Path, weights: Path) -> int | None:
    if weights.name.startswith("checkpoint-"):
        return int(weights.name.removeprefix("checkpoint-"))
    best = load_run(run).best_evaluation
    return best.iter if best is not None else None


def _load(weights: str) -> tuple[Any, Any, bool]:
    register_auto_classes()
    what = f"{weights} cannot be loaded as a masked diffusion model or a causal LM"
    try:
        config = AutoConfig.from_pretrained(weights)
        is_denoiser = config.model_type == "masked_diffusion"
        kind: Any = MaskedDiffusionForMaskedLM if is_denoiser else AutoModelForCausalLM
        model, found = kind.from_pretrained(weights, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(weights)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{what}: {first}") from error
    if found["missing_keys"]:
        kinds = ", ".join(config.architectures or [config.model_type])
        raise UserError(
            f"{what}: it is a {kinds}, without the weights {sorted(found['missing_keys'])[0]}; give another"
        )
    for role in ("bos_token", "pad_token"):
        if getattr(tokenizer, role) is None:
            raise UserError(f"{what}: its tokenizer has no {role}, which every block starts with or is filled up with")
    return model, tokenizer, is_denoiser
