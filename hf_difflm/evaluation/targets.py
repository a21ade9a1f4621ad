"""What ``eval`` and ``generate`` are pointed at: a run, a checkpoint, a model folder, a model on the Hub."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from ..data import DataOptions
from ..errors import UserError
from ..models import MaskedDiffusionForMaskedLM, register_auto_classes
from ..runs import load_run
from ..runs.checkpoints import EMA_FILE, newest_good
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
        UserError: nothing there, nothing trained yet, or a model of another kind.
    """
    path = Path(target)
    weights: str | Path = target
    run_folder: Path | None = None
    if path.is_dir():
        if (path / JOURNAL_NAME).exists():
            run_folder, weights = path, _weights_of_run(path)
        else:
            weights = path
            if (path.parent / JOURNAL_NAME).exists():
                run_folder = path.parent
        if not (Path(weights) / "config.json").exists():
            raise UserError(f"{target} holds no run and no model; give a run, a checkpoint or a model folder")
    elif path.exists():
        raise UserError(f"{target} is a file; give a run, a checkpoint or a model folder")
    elif target.count("/") != 1 or target.startswith((".", "/", "~")):
        raise UserError(f"{target} does not exist; give a run, a checkpoint, a model folder or OWNER/NAME on the Hub")
    model, tokenizer, is_denoiser = _load(weights)
    averaged = Path(weights) / EMA_FILE if run_folder else None
    if averaged is not None and averaged.exists():
        model.load_state_dict(load_file(averaged), strict=False)  # tied weights are in the file once
    model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() and not use_cpu else "cpu")
    step = None
    if run_folder is not None:
        step = _step_of(run_folder, Path(weights))
    return Target(
        model=model.eval(),
        tokenizer=tokenizer,
        is_denoiser=is_denoiser,
        source=str(weights),
        config=load_run(run_folder).config if run_folder else {},
        step=step,
    )


def data_options(target: Target, changes: dict[str, Any]) -> DataOptions:
    """The data a target is evaluated on: that of its run, unless ``changes`` say otherwise.

    Raises:
        UserError: it carries no run log and no data set was named.
    """
    names = {field.name for field in dataclasses.fields(DataOptions)}
    if not target.config and "dataset" not in changes:
        raise UserError(f"{target.source} carries no run log that says what to evaluate on; add --dataset")
    values = {name: value for name, value in target.config.items() if name in names}
    if "dataset" in changes:  # another data set has its own splits and limits
        for name in ("dataset_config", "eval_split", "eval_dataset", "max_eval_blocks"):
            values.pop(name, None)
    if "eval_split" in changes:
        values.pop("eval_dataset", None)
    values.update({name: value for name, value in changes.items() if name in names})
    return DataOptions(**values)


def _weights_of_run(run: Path) -> Path:
    if (run / "best" / "config.json").exists():
        return run / "best"
    checkpoint, _ = newest_good(run)
    if checkpoint is None:
        raise UserError(f"{run} has no finished checkpoint yet; let it train longer, or lower its save_steps")
    return checkpoint


def _step_of(run: Path, weights: Path) -> int | None:
    if weights.name.startswith("checkpoint-"):
        return int(weights.name.removeprefix("checkpoint-"))
    best = load_run(run).best_evaluation
    return best.iter if best is not None else None


def _load(weights: str | Path) -> tuple[Any, Any, bool]:
    register_auto_classes()
    try:
        config = AutoConfig.from_pretrained(weights)
        is_denoiser = config.model_type == "masked_diffusion"
        kind: Any = MaskedDiffusionForMaskedLM if is_denoiser else AutoModelForCausalLM
        return kind.from_pretrained(weights), AutoTokenizer.from_pretrained(weights), is_denoiser
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"{weights} cannot be loaded as a masked diffusion model or a causal LM: {first}") from error
