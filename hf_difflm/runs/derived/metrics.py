"""The losses of a run in one flat JSON file, ``{experiment}_metrics.json``, derived from its journal."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..journal.run import Run

# Trainers add up 1/steps_in_epoch, so the last step of epoch 1 may end at 1.0000000000000002.
_ROUNDING = 1e-6


def build_metrics(run: Run) -> dict[str, Any]:
    """Return the metrics of a run: the objective, start and end, and its losses in nats per token.

    ``step_losses`` has one entry a step row (None where unknown) and ``steps`` the optimiser steps done;
    ``epoch_losses`` is the mean over the steps of each epoch, that of an unfinished one over what is there.
    """
    epochs, epoch_losses = losses_by_epoch(run)
    losses = run.column("loss")
    return {
        "model_type": (run.objective or str(run.header.model.get("type") or "unknown")).upper(),
        "experiment_name": run.experiment_name,
        "start_time": run.start_time,
        "end_time": run.end_time,
        "epochs": epochs.tolist(),
        "epoch_losses": epoch_losses.tolist(),
        "steps": run.column("iter").astype(np.int64).tolist(),
        "step_losses": [None if loss != loss else loss for loss in losses.tolist()],
    }


def losses_by_epoch(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the epochs (from 1) and the mean loss of the steps in each, both of shape (epochs,).

    What a log says itself wins. Steps whose epoch or loss is unknown are left out.
    """
    if run.epoch_losses:
        return np.array(list(run.epoch_losses)), np.array(list(run.epoch_losses.values()))
    losses, ends = run.column("loss"), run.column("epoch")
    known = ~np.isnan(losses) & ~np.isnan(ends)
    number = np.maximum(np.ceil(ends[known] - _ROUNDING), 1.0).astype(np.int64)
    epochs, place = np.unique(number, return_inverse=True)
    weights = run.column("steps")[known]
    totals = np.bincount(place, weights=weights, minlength=len(epochs))
    return epochs, np.bincount(place, weights=weights * losses[known], minlength=len(epochs)) / totals
