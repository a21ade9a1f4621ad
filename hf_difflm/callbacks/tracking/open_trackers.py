"""Find the trackers that are installed and those that a Trainer has open, without importing any."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import Any

from transformers.integrations import TensorBoardCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_callback import CallbackHandler

from ...errors import UserError
from .backends import TrackioBackend, WandbBackend

_NOT_TOLD = {"azure_ml", "flyte"}  # transformers does not always say that these are there


def refuse_missing_trackers(names: Iterable[str]) -> None:
    """Make sure that what a training reports to is installed, before a Trainer asks for it.

    A Trainer would make the callback of MLflow, whose half-made remains then complain when they are deleted.

    Args:
        names: ``report_to`` of the training arguments; names that transformers does not know are left to it.

    Raises:
        UserError: a tracker is not installed.
    """
    known = [name for name in names if name in INTEGRATION_TO_CALLBACK]
    if not known:
        return  # looking for them imports some of them, and W&B takes a second
    usable = {*get_available_reporting_integrations(), *_NOT_TOLD}
    missing = [name for name in known if name not in usable]
    if missing:
        raise UserError(f"report_to names {missing[0]}, which is not installed; install its package, or leave it out")


def open_wandb() -> WandbBackend | None:
    """Return the W&B run of this process; None where there is none."""
    wandb = sys.modules.get("wandb")
    run = getattr(wandb, "run", None)
    return None if run is None else WandbBackend(wandb, run)


def open_trackio() -> TrackioBackend | None:
    """Return the Trackio run of this process; None where there is none."""
    trackio = sys.modules.get("trackio")
    variables = getattr(trackio, "context_vars", None)
    run = None if variables is None else variables.current_run.get()
    return None if run is None else TrackioBackend(trackio, run)


def tensorboard_callback() -> TensorBoardCallback | None:
    """Return the TensorBoard callback of the Trainer that is calling a hook just now; None where it has none.

    A Trainer hands its callbacks neither itself nor each other. But it calls them from its ``CallbackHandler``, which has
    them all and is therefore among the callers of this function. That is exact where several Trainers are alive, holds
    for a callback inside another one, and does not search the heap as ``gc.get_referrers`` would.
    """
    frame = inspect.currentframe()
    try:
        while frame is not None:
            handler: Any = frame.f_locals.get("self")
            if isinstance(handler, CallbackHandler):
                return next((one for one in handler.callbacks if isinstance(one, TensorBoardCallback)), None)
            frame = frame.f_back
    finally:
        del frame  # it would keep alive what the caller has
    return None
