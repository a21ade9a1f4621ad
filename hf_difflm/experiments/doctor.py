"""Is this machine ready, and do these settings work? One line a check: ✓ or ✗, and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from .. import __version__
from ..data import Collator, PreparedData, prepare_data
from ..errors import UserError
from ..models.backbones.check import check_model
from ..models.backbones.sentences import direction_said
from ..objectives import (
    AdaptiveMaskingObjective,
    Batch,
    BlockDiffusionObjective,
    MaskedDiffusionObjective,
    NoiseKey,
    Objective,
)
from ..objectives.adaptive.bound import AdaptiveBound
from ..objectives.base import scored_mask
from ..training.peft_adapters import with_adapters
from ..training.trainer import objective_for
from .building import build_model, parameters_said
from .recipe_settings import Settings, load_settings
from .starting_point import open_tokenizer
from .trainer_arguments import training_arguments

_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "evaluate",
    "safetensors",
    "typer",
    "matplotlib",
    "wandb",
)
_LEAST_FREE_GB = 2.0


class CheckFailed(Exception):
    """What is wrong and what to do."""


@dataclass
class _Subject:
    """What the later checks use, filled by the earlier ones."""

    settings: Settings
    tokenizer: Any = None
    data: PreparedData | None = None
    model: Any = None
    objective: Objective | None = None


def run_checks() -> bool:
    """Check the machine, then one step of a tiny model; returns whether all is well."""
    tiny = {"dataset": "markov", "block_size": 65, "hidden_size": 64, "num_hidden_layers": 2}
    return sanity_checks(load_settings(None, tiny))


def sanity_checks(settings: Settings) -> bool:
    """The same with the data, the model and the objective of ``settings``."""
    return _run([*_MACHINE, *_RUN], _Subject(settings))


def _run(checks: list[tuple[str, Callable[[_Subject], str]]], subject: _Subject) -> bool:
    fine = True
    for name, check in checks:
        try:
            said = check(subject)
            print(f"✓ {name}: {said}")
        except Exception as error:  # a check that breaks is a finding, and the later ones may still say something
            fine = False
            what = str(error) if isinstance(error, (CheckFailed, UserError)) else f"{type(error).__name__}: {error}"
            print(f"✗ {name}: {what.splitlines()[0] if what else type(error).__name__}")
    sys.stdout.flush()
    return fine


# ---- the machine ----


def _versions(subject: _Subject) -> str:
    found, missing = [f"hf_difflm {__version__}", f"python {platform.python_version()}"], []
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise CheckFailed(f"{', '.join(missing)} not installed; pip install -c constraints.txt {' '.join(missing)}")
    return ", ".join(found)


def _devices(subject: _Subject) -> str:
    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        launch = "" if len(names) == 1 else f"; to use all: accelerate launch --multi_gpu --num_processes {len(names)}"
        return f"{len(names)} GPU ({names[0]}), {cores} CPU cores{launch}"
    if torch.accelerator.is_available():
        return f"{torch.accelerator.current_accelerator()}, {cores} CPU cores"
    return f"no GPU, {cores} CPU cores, torch uses {torch.get_num_threads()} threads"


def _memory(subject: _Subject) -> str:
    parts = []
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        page = os.sysconf("SC_PAGE_SIZE")
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * page / 1e9:.1f} GB of memory")
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        if free < 0.5 * total:
            raise CheckFailed(
                f"only {free / 1e9:.1f} of {total / 1e9:.1f} GB of GPU memory are free; see nvidia-smi for who uses it"
            )
        parts.append(f"{free / 1e9:.1f} of {total / 1e9:.1f} GB of GPU memory free")
    return ", ".join(parts) or "unknown on this system"


def _disk(subject: _Subject) -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < _LEAST_FREE_GB:
        raise CheckFailed(
            f"{free:.1f} GB free here; checkpoints need room: free some, or give --output-dir on another disk"
        )
    return f"{free:.1f} GB free in the current folder"


# ---- a run ----


def _data(subject: _Subject) -> str:
    subject.tokenizer = open_tokenizer(subject.settings)
    subject.data = prepare_data(subject.settings.data, subject.tokenizer, tell=False)
    counts = subject.data.counts
    return f"{subject.settings.data.dataset}: " + ", ".join(f"{side} {c.blocks:,} blocks" for side, c in counts.items())


def _model(subject: _Subject) -> str:
    if subject.data is None:
        raise CheckFailed("not tried, since there is no data; mend that first")
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(subject.settings, Path(folder))
    set_seed(arguments.seed)
    subject.model = with_adapters(build_model(subject.settings, subject.tokenizer), arguments).to(arguments.device)
    bos_token_id = subject.tokenizer.bos_token_id
    subject.objective = objective_for(arguments, subject.model, subject.data.train, bos_token_id)
    if subject.objective.networks is not None:
        subject.objective.networks.to(subject.model.device)
    subject.objective.begin(max(arguments.max_steps, 1))
    verdict = check_model(
        subject.model,
        allow_causal_layers=arguments.allow_causal_layers,
        router_aux_loss=arguments.router_aux_loss,
    )
    longest = getattr(subject.model.config, "max_position_embeddings", None)
    reads = "" if verdict is None else f", {direction_said(verdict, longest)}"
    return f"{arguments.objective}, {parameters_said(subject.model)} on {subject.model.device}{reads}"


def _step(subject: _Subject) -> str:
    if subject.model is None or subject.objective is None or subject.data is None:
        raise CheckFailed("not tried, since there is no model; mend that first")
    batch = Collator(subject.tokenizer)([subject.data.eval[i] for i in range(min(4, len(subject.data.eval)))])
    scored = int((batch["labels"] != -100).sum())
    rows = len(batch["labels"])
    key = NoiseKey(seed=0, step=0, places_B=np.arange(rows), size=rows)
    output = subject.objective(subject.model, batch, key, scored, subject.model.device)
    output.loss.backward()
    norms = [p.grad.norm() for p in subject.model.parameters() if p.grad is not None]
    networks = subject.objective.networks
    if networks is not None and not any(bool(p.grad.any()) for p in networks.parameters() if p.grad is not None):
        raise CheckFailed("no gradient reaches the importance estimator; set importance_loss_weight above 0")
    loss, norm = float(output.loss.detach()), float(torch.stack(norms).norm())
    if not (np.isfinite(loss) and np.isfinite(norm)):
        raise CheckFailed(f"loss {loss}, gradient norm {norm}; check dtype and initialisation")
    return f"loss {loss:.3f} nats/token, gradient norm {norm:.3f}"


def _each_token_once(subject: _Subject) -> str:
    """With a model that is always wrong by 1 nat, the loss must be 1 nat a token: no token counts twice or not at all."""
    if subject.objective is None or subject.data is None:
        raise CheckFailed("not tried, since there is no objective; mend that first")
    if not subject.objective.stochastic:
        return "each scored token is predicted once from what precedes it"
    rows = min(256, len(subject.data.eval))
    batch = Collator(subject.tokenizer)([subject.data.eval[i] for i in range(rows)])
    scored = int((batch["labels"] != -100).sum())
    keys = [NoiseKey(0, step, np.arange(rows), rows) for step in range(64)]
    totals = [weight / scored for weight in _weight_of_hidden(subject, batch, keys)]
    mean, error = float(np.mean(totals)), float(np.std(totals, ddof=1) / len(totals) ** 0.5)
    if abs(mean - 1) > 4 * error + 1e-9:
        raise CheckFailed(
            f"a token counts {mean:.4f} ± {error:.4f} times; the loss would be no bound: report this as a bug"
        )
    return f"a token counts {mean:.4f} ± {error:.4f} times"


def _weight_of_hidden(subject: _Subject, batch: Batch, keys: list[NoiseKey]) -> list[float]:
    """For each noise the sum of the weights of the hidden tokens, under the masks that training begins with."""
    objective = subject.objective
    assert objective is not None
    bound = objective.native(0)
    if isinstance(bound, AdaptiveBound):
        with torch.no_grad():
            importance = bound.reader(subject.model, batch, subject.model.device)
        found = [bound.corruption(batch, key, importance, 0.0) for key in keys]
        return [float((each.masked_BL * each.weights_BL).sum()) for each in found]
    if isinstance(objective, BlockDiffusionObjective):
        blocks = [objective.corrupt(scored_mask(batch), key, batch["attention_mask"].numpy()) for key in keys]
        return [float((each.masked_RL * each.weights_RL).sum()) for each in blocks]
    p0 = objective.p0 if isinstance(objective, AdaptiveMaskingObjective) else objective
    assert isinstance(p0, MaskedDiffusionObjective)
    plain = [p0.corrupt(scored_mask(batch), key) for key in keys]
    return [float((each.masked_BL.sum(-1) * each.weights_B).sum()) for each in plain]


_MACHINE: list[tuple[str, Callable[[_Subject], str]]] = [
    ("versions", _versions),
    ("devices", _devices),
    ("memory", _memory),
    ("free disk", _disk),
]
_RUN: list[tuple[str, Callable[[_Subject], str]]] = [
    ("data loading", _data),
    ("model initialisation", _model),
    ("forward and backward pass", _step),
    ("each token counted once", _each_token_once),
]
