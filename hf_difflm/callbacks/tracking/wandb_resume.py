"""Which Weights & Biases run a training reports to: a resumed one to its own, the next one in a process to a new one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainingArguments

HEADER_KEY = "wandb_run_id"


def active_wandb_run() -> str | None:
    """Return the id of the W&B run of this process; None where there is none. Does not import wandb."""
    run = getattr(sys.modules.get("wandb"), "run", None)
    return None if run is None else run.id


def finish_wandb_run() -> None:
    """End the W&B run of this process, if there is one, so that the next training gets its own. Does not import wandb."""
    if active_wandb_run() is not None:
        sys.modules["wandb"].finish()


class WandbResume:
    """Name a W&B run in the environment, which is where transformers' callback lets one name it.

    Only between :meth:`name` and :meth:`forget`, so that the next training in this process gets a run of its own.
    """

    def __init__(self) -> None:
        self._set: list[str] = []

    def name(self, args: TrainingArguments, metadata: Mapping[str, Any]) -> None:
        """Make W&B, if the training reports to it, go on with the run in a header's metadata.

        What the user has set in the environment stays.
        """
        run_id = metadata.get(HEADER_KEY)
        if not run_id or "wandb" not in (args.report_to or ()) or "WANDB_RUN_ID" in os.environ:
            return
        for name, value in {"WANDB_RUN_ID": str(run_id), "WANDB_RESUME": "allow"}.items():
            if name not in os.environ:
                os.environ[name] = value
                self._set.append(name)

    def forget(self) -> None:
        """Take out of the environment what was put there."""
        for name in self._set:
            os.environ.pop(name, None)
        self._set = []
