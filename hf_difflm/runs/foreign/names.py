"""What other programs call the quantities that we know; every other scalar keeps its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import datetime, timezone
from typing import Any

# Names of the quantities of a step, ours first: where a log has several of them, the first is taken for ours.
_SYNONYMS = {
    "iter": (
        *("iter", "step", "global_step", "iteration"),
        *("train/global_step", "trainer/global_step", "training/global_step", "current_steps", "_step", "steps"),
    ),
    "loss": ("loss", "train/loss", "train_loss", "training/loss", "training_loss", "loss/train", "train_loss_step"),
    "accuracy": ("accuracy", "acc", "train/accuracy"),
    "tokens_per_sec": ("tokens_per_sec", "tokens_per_second"),
    "lr": ("lr", "learning_rate", "train/learning_rate", "train/lr"),
    "grad_norm": ("grad_norm", "train/grad_norm"),
    "epoch": ("epoch", "train/epoch", "trainer/epoch"),
    "tokens_seen": ("tokens_seen", "num_input_tokens_seen", "train/num_input_tokens_seen"),
    "time": ("time", "timestamp", "_timestamp", "wall_time", "created_at"),
    "eval_loss": (
        *("eval_loss", "eval/loss", "val_loss", "val/loss", "valid_loss", "valid/loss"),
        *("validation_loss", "validation/loss", "dev_loss", "dev/loss", "loss/val", "loss/validation"),
    ),
}
STEP_NAMES = _SYNONYMS["iter"]
"""What counts steps, the name that is taken first at the front; written in any case."""
# What transformers puts before the names of a tracker: one of these tells its logs.
_OF_TRANSFORMERS = ("train/global_step", "train/epoch")
_OF_EVALUATIONS = re.compile(r"(eval|val|valid|validation|dev)[_/]")
_BOOKKEEPING = frozenset({"_runtime", "_step"})


def renamed(names: Collection[str]) -> dict[str, str]:
    """Return what each name of a log is called here; the bookkeeping of trackers is left out.

    ``train/`` and ``eval/``, which transformers writes for a tracker, are taken back: ``eval/f1`` is ``eval_f1``.
    """
    # ``Loss/train`` is one of PyTorch's own examples, ``Train Loss`` a heading as people write it.
    spelt = {spelling(name): name for name in reversed(list(names))}
    found: dict[str, str] = {}
    for ours, synonyms in _SYNONYMS.items():
        theirs = next((spelt[synonym] for synonym in synonyms if synonym in spelt), None)
        if theirs is not None:
            found[theirs] = ours
    taken = set(found.values())
    strip = any(name in names for name in _OF_TRANSFORMERS)
    for name in names:
        if name in found or name in _BOOKKEEPING:
            continue
        ours = name
        if name.startswith("eval/"):
            ours = f"eval_{name.removeprefix('eval/')}"
        elif strip:
            ours = name.removeprefix("train/")
        if ours in taken or (ours != name and ours in names):
            ours = name
        taken.add(ours)
        found[name] = ours
    return found


def counts_steps(names: Iterable[str]) -> bool:
    """Whether one of these names counts steps."""
    return not {spelling(name) for name in names}.isdisjoint(STEP_NAMES)


def counts_epochs(names: Iterable[str]) -> bool:
    """Whether one of these names counts epochs, which takes the place of steps where a log has none."""
    return not {spelling(name) for name in names}.isdisjoint(_SYNONYMS["epoch"])


def is_evaluation(name: str) -> bool:
    """Whether a scalar belongs to evaluations, by the prefix that programs give it."""
    return _OF_EVALUATIONS.match(spelling(name)) is not None


def spelling(name: str) -> str:
    """Return a name as names are compared: in lower case, ``_`` for blanks."""
    return "_".join(name.lower().split())


def iso_time(value: Any) -> str:
    """Return ISO 8601 from what programs write: that, or seconds since 1970; nothing from anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value, timezone.utc).isoformat(timespec="milliseconds")
        except (ValueError, OverflowError, OSError):  # no time that a calendar has
            return ""
    return value if isinstance(value, str) else ""
