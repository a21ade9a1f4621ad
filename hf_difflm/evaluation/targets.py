"""What ``eval`` and ``generate`` are pointed at: a run, a checkpoint, a model folder, a model on the Hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from ..data import DataOptions
from ..data.text_ids import TextIds
from ..errors import UserError, first_line
from ..models.adapters.folders import is_model_folder
from ..models.backbones.check import check_loaded
from ..models.hub_source import hub_folder
from ..models.loading import is_denoiser, load_model, tokenizer_folder
from ..runs import load_run
from ..runs.journal.atomic_files import JOURNAL_NAME
from ..runs.journal.checkpoints import EMA_FILE, MANIFEST, checkpoints, damage, newest_good
from .precision import dtype_of_weights


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
        folder: where its files are.
        text: how text becomes ids for it; default: see :meth:`texts_of`.
    """

    model: Any
    tokenizer: Any
    is_denoiser: bool
    source: str
    config: dict[str, Any]
    step: int | None
    folder: Path | None = None
    text: TextIds = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.text is None and self.tokenizer is not None:
            self.text = self.texts_of()

    def texts_of(self, add_bos: bool | None = None, bos_token: str | None = None) -> TextIds:
        """Return how text becomes ids: as in training, for a model that was trained elsewhere as its tokenizer does.

        Args:
            add_bos: whether a text begins with BOS, where the model does not say.
            bos_token: the token that it begins with, likewise.

        Raises:
            UserError: the model says, since it has a run log; no such token.
        """
        if "dataset" in self.config and (add_bos, bos_token) != (None, None):
            flag = "--bos-token" if add_bos is None else "--add-bos" if add_bos else "--no-add-bos"
            raise UserError(
                f"{flag} is for models without a run log, but {self.source} has one: it was trained with "
                f"{self.tokenizer.bos_token!r} before each text; leave it out"
            )
        known = self.is_denoiser or "dataset" in self.config
        return TextIds.of(self.tokenizer, trained_here=True if known else None, add_bos=add_bos, bos_token=bos_token)


@dataclass(frozen=True)
class Weights:
    """Where the weights are that a run, a checkpoint, a model folder or a name on the Hub stands for.

    Args:
        folder: a model folder.
        run: the folder of the run log that belongs to them; None where there is none.
        name: what to call them.
        step: optimiser steps behind them, where known.
        commit: of the repository that they were downloaded from.
    """

    folder: Path
    run: Path | None
    name: str
    step: int | None = None
    commit: str | None = None


def find_weights(
    target: str, revision: str | None = None, check_first: Callable[[Path, str], None] | None = None
) -> Weights:
    """Find a model: of a run the best weights, else its newest good checkpoint; a name on the Hub is downloaded.

    Args:
        target: a run, a checkpoint, a model folder or ``OWNER/NAME`` on the Hub.
        revision: branch, tag or commit on the Hub; default: main.
        check_first: see :func:`hub_folder`.

    Raises:
        UserError: nothing there, nothing trained yet, damaged, not to be trusted, or a revision of what is not on the Hub.
    """
    path = Path(target)
    if path.is_dir():
        if revision is not None:
            raise UserError(f"--revision is for models on the Hub, but {target} is a folder; leave it out")
        weights, run = _in_folder(path)
        if why := _damage(weights):
            raise UserError(f"{weights} cannot be trusted: {why}; take another checkpoint of the run")
        return Weights(weights, run, str(weights), _step_of(run, weights) if run else None)
    if path.exists():
        raise UserError(f"{target} is a file; give a run, a checkpoint or a model folder")
    if target.count("/") != 1 or target.startswith((".", "/", "~", "runs/")) or path.parent.is_dir():
        # A missing folder inside one that is there, or in the default place of runs, is a slip and not a name on the Hub.
        raise UserError(f"{target} does not exist; give a run, a checkpoint, a model folder or OWNER/NAME on the Hub")
    folder = hub_folder(target, revision, check_first)
    return Weights(folder, folder if (folder / JOURNAL_NAME).exists() else None, target, commit=folder.name)


def target_of(target: str, changes: Mapping[str, Any]) -> Target:
    """Load what an evaluation is of, by its typed settings.

    Args:
        target: see :func:`load_target`.
        changes: of which ``use_cpu``, ``revision``, ``dtype``, ``bf16``, ``add_bos`` and ``bos_token`` are read.

    Raises:
        UserError: see :func:`load_target`.
    """
    return load_target(
        target,
        use_cpu=changes.get("use_cpu", False),
        revision=changes.get("revision"),
        dtype=dtype_of_weights(changes),
        add_bos=changes.get("add_bos"),
        bos_token=changes.get("bos_token"),
    )


def load_target(
    target: str,
    *,
    use_cpu: bool = False,
    revision: str | None = None,
    dtype: str | None = None,
    add_bos: bool | None = None,
    bos_token: str | None = None,
) -> Target:
    """Load the model that :func:`find_weights` finds; of a checkpoint the averaged weights.

    Args:
        target: see :func:`find_weights`.
        use_cpu: leave it on the CPU.
        revision: see :func:`find_weights`.
        dtype: of the weights and of what is computed with them, as in ``evaluation.precision``; None: that of the files.
        add_bos, bos_token: see :meth:`Target.texts_of`.

    Raises:
        UserError: nothing there, nothing trained yet, damaged, not to be trusted, or a model of another kind; a causal LM
            that reads the token that it predicts; a text that cannot begin so.
    """
    found = find_weights(target, revision)
    model, tokenizer = _load(found, dtype)
    load_average(model, found.folder)
    check_loaded(model)
    model.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() and not use_cpu else "cpu")
    loaded = Target(
        model=model.eval(),
        tokenizer=tokenizer,
        is_denoiser=is_denoiser(model.config),
        source=found.name,
        config=load_run(found.run).config if found.run else {},
        step=found.step,
        folder=found.folder,
    )
    if (add_bos, bos_token) != (None, None):
        loaded.text = loaded.texts_of(add_bos, bos_token)
    return loaded


def load_average(model: Any, folder: Path) -> None:
    """Give a model the averaged weights of a checkpoint, where it has them."""
    if (folder / EMA_FILE).exists():
        model.load_state_dict(load_file(folder / EMA_FILE), strict=False)  # tied weights are in the file once


def _in_folder(path: Path) -> tuple[Path, Path | None]:
    """The folder of the weights that ``path`` stands for, and the folder of its run where that keeps a log."""
    if (path / JOURNAL_NAME).exists() or (path / "best").is_dir() or checkpoints(path):
        return _weights_of_run(path), path if (path / JOURNAL_NAME).exists() else None
    if not is_model_folder(path):
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
        for name in (
            "dataset_config",
            "eval_split",
            "eval_dataset",
            "max_eval_blocks",
            "sft",
            "sft_fill_eos",
            "sft_turns",
        ):
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
    if is_model_folder(run / "best"):
        return run / "best"
    checkpoint, _ = newest_good(run)
    if checkpoint is None and is_model_folder(run):  # as it was pushed: the log beside the weights
        return run
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


def _load(found: Weights, dtype: str | None) -> tuple[Any, Any]:
    model = load_model(found.folder, found.name, **({} if dtype is None else {"dtype": getattr(torch, dtype)}))
    what = f"{found.name} cannot be loaded as a masked diffusion model or a causal LM"
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder(found.folder, found.name), trust_remote_code=False)
    except Exception as error:  # files, formats and the parsers of each raise their own
        raise UserError(f"{what}: {first_line(error)}; give a model with its tokenizer") from error
    return model, tokenizer
