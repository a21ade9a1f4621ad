"""Is importance learnt, and does the curriculum move on? What only runs with adaptive masking can answer."""

from __future__ import annotations

import math

import numpy as np

from ..journal.run import Run
from ..journal.tables import printable
from .checks import (
    FEW,
    FEW_FOR_TRENDS,
    TREND,
    Check,
    ends,
    failed,
    falling,
    judged,
    known_rows,
    passed,
    planned_steps,
    setting,
    unknown,
    warmup_steps,
)

BOUNDARIES = {"thirds": (1 / 3, 2 / 3), "30-70": (0.3, 0.7), "early": (0.1, 0.3), "late": (0.5, 0.9)}
"""Shares of training at which the medium and the hard stage of each curriculum begin."""

_LEAST_SPREAD = 0.1
_LEAST_CORRELATION = 0.05
_SPREAD = "importance tells tokens apart"
_CORRELATION = "importance goes with difficulty"
_LOSS = "importance loss falls"
_GRADIENTS = "gradients reach the estimator"
_WEIGHTS = "curriculum weights have mean 1"
_STAGES = "curriculum stages begin when they should"
_NAMES = (_SPREAD, _CORRELATION, _GRADIENTS, _LOSS)


def importance_checks(run: Run) -> list[Check]:
    """Whether importance is learnt."""
    if not len(known_rows(run, "importance_mean")):
        reason = "the log has no importance yet" if run.objective == "atat" else "this run has no importance estimator"
        if run.config.get("importance") == "none" and run.objective == "atat":
            reason = "importance is switched off"
        return [unknown(name, reason) for name in _NAMES]
    if not len(known_rows(run, "importance_loss")):
        return [unknown(name, "importance comes from token counts: nothing is learnt") for name in _NAMES]
    return [_spread(run), _correlation(run), _gradients(run), _loss(run)]


def curriculum_checks(run: Run) -> list[Check]:
    """Whether the curriculum weighs tokens fairly and its stages begin at their steps."""
    stages = known_rows(run, "curriculum_stage")
    if not len(stages):
        return [unknown(name, "this run has no curriculum") for name in (_WEIGHTS, _STAGES)]
    return [_weights(run), _transitions(run, stages)]


def _late(run: Run, name: str) -> np.ndarray | None:
    """The last quarter of a quantity, once warm-up and a tenth of the training are over; None before."""
    planned = planned_steps(run)
    start = max(warmup_steps(run, planned) or 0, 0.1 * (planned or 0))
    rows = known_rows(run, name)
    rows = rows[rows[:, 0] > start]
    if len(rows) < FEW or rows[-1, 0] - start < FEW_FOR_TRENDS:
        return None
    return rows[-max(len(rows) // 4, FEW // 2) :, 1]


def _spread(run: Run) -> Check:
    late, now = _late(run, "importance_std"), known_rows(run, "importance_std")
    if late is None:
        return unknown(_SPREAD, f"too early to tell: standard deviation {now[-1, 1]:.3f} at step {now[-1, 0]:,.0f}")
    low, high = (known_rows(run, f"importance_{end}") for end in ("min", "max"))
    span = f", from {low[-1, 1]:.2f} to {high[-1, 1]:.2f}" if len(low) and len(high) else ""
    finding = f"standard deviation {late.mean():.3f} in the last quarter (more than {_LEAST_SPREAD} is wanted){span}"
    weight = setting(run, "importance_loss_weight")
    advice = (
        f"importance_loss_weight is {'unknown' if weight is None else f'{weight:g}'} (0.1 is usual): raise it, or train on; "
        "of text whose tokens are all alike hard this is right"
    )
    return judged(_SPREAD, float(late.mean()) > _LEAST_SPREAD, finding, advice)


def _correlation(run: Run) -> Check:
    late = _late(run, "importance_difficulty_correlation")
    if late is None:
        return unknown(_CORRELATION, "too early to tell, or the log has too few correlations")
    mean, error = float(late.mean()), float(late.std(ddof=1)) / math.sqrt(len(late))
    finding = f"correlation {mean:.3f} ± {error:.3f} in the last quarter"
    advice = (
        "the estimator does not rank tokens by what the model finds hard: train on, or raise importance_loss_weight"
    )
    return judged(_CORRELATION, mean > max(_LEAST_CORRELATION, TREND * error), finding, advice)


def _gradients(run: Run) -> Check:
    """The importance of the same kind of text changes only if the estimator's weights do."""
    moved: list[str] = []
    still: list[str] = []
    for name in ("importance_mean", "importance_std"):
        values = known_rows(run, name)[:, 1]
        if len(values) < FEW:
            return unknown(_GRADIENTS, f"too early to tell: {len(values)} steps logged, {FEW} are needed")
        first, last, error = ends(values)
        (moved if abs(last - first) > TREND * error and last != first else still).append(
            f"{name} went from {first:.3f} to {last:.3f}"
        )
    finding = ", ".join(moved or still)
    if moved:
        return passed(_GRADIENTS, finding)
    if len(known_rows(run, "importance_mean")) < FEW_FOR_TRENDS:
        return unknown(_GRADIENTS, f"{finding}: not clear yet")
    return failed(_GRADIENTS, f"{finding}: it does not move", "check that importance_loss_weight is above 0")


def _loss(run: Run) -> Check:
    advice = "raise importance_loss_weight; a rising loss may also follow a denoiser that learns fast"
    return falling(run, "importance_loss", _LOSS, advice)


def _weights(run: Run) -> Check:
    weights = known_rows(run, "curriculum_weight_mean")[:, 1]
    if not len(weights):
        return unknown(_WEIGHTS, "the log does not have them")
    worst = float(np.abs(weights - 1.0).max())
    finding = f"farthest from 1 by {worst:.2g} in {len(weights):,} steps"
    return judged(_WEIGHTS, worst < 1e-3, finding, "the stages change the size of the loss: report it")


def _transitions(run: Run, stages: np.ndarray) -> Check:
    planned, boundaries = planned_steps(run), boundaries_of(run)
    if planned is None or boundaries is None:
        return unknown(_STAGES, f"now stage {stages[-1, 1]:.0f}; when the next begins is not in the log")
    found: list[str] = []
    for stage, boundary in zip((2, 3), boundaries, strict=True):
        # Before optimiser step n (from 1), n - 1 of the planned steps are done.
        due = 1 + math.ceil(boundary * planned - 1e-9)
        if stages[-1, 0] < due:
            found.append(f"stage {stage} is due at step {due:,}")
            continue
        late, early = stages[:, 0] >= due, stages[:, 0] < due
        wrong = (late & (stages[:, 1] < stage)) | (early & (stages[:, 1] >= stage))
        if wrong.any():
            step, said = stages[wrong][0]
            finding = f"stage {stage} is due at step {due:,}, but step {step:,.0f} is in stage {said:.0f}"
            return failed(_STAGES, finding, "resume with the max_steps and the curriculum the run was started with")
        found.append(f"stage {stage} at step {due:,}")
    return passed(_STAGES, f"{', '.join(found)} ({printable(str(run.config['curriculum']))})")


def boundaries_of(run: Run) -> tuple[float, float] | None:
    """Shares of training at which stages 2 and 3 begin, by the settings of the run; None where they do not say."""
    option = run.config.get("curriculum")
    if not isinstance(option, str):
        return None
    if option in BOUNDARIES:
        return BOUNDARIES[option]
    try:
        medium, hard = (float(part) for part in option.replace("/", ",").split(","))
    except ValueError:
        return None
    return medium, hard
