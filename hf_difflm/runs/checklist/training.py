"""Does a run train as it should? Loss, learning rate, numbers, evaluations, speed and memory."""

from __future__ import annotations

import math

import numpy as np

from ..journal.run import Run
from ..journal.tables import count, duration, printable, with_error
from .checks import (
    FEW_FOR_TRENDS,
    TREND,
    Check,
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
from .plateau import plateau_check

_LR_TOLERANCE = 0.02  # of the peak: steps that a float16 scaler skipped shift the schedule
_SLOWEST = 0.5
_GROWTH = 1.2


def training_checks(run: Run) -> list[Check]:
    """The checks that make sense for every objective."""
    return [
        _status(run),
        _finite(run),
        _loss(run),
        plateau_check(run),
        _learning_rate(run),
        _evaluations(run),
        _throughput(run),
        _memory(run),
    ]


def _status(run: Run) -> Check:
    name, step, planned = "run", run.last_step, planned_steps(run)
    if (death := run.death) is not None:
        return failed(name, death, "its process is gone: go on with --resume")
    finding = f"{run.shown_status} at step {step:,}" + (f" of {planned:,}" if planned else "")
    if run.status == "failed":
        said = next((event.message for event in reversed(run.events) if event.event == "failed"), None)
        reason = f" ({' '.join(printable(said).split())})" if said else ""
        return failed(name, finding + reason, "mend that and go on with --resume")
    return passed(name, finding) if run.shown_status in ("running", "completed") else unknown(name, finding)


def _finite(run: Run) -> Check:
    name = "numbers are finite"
    scaled = run.header.metadata.get("dtype") == "float16"  # there an infinite norm is part of the method
    rows = [(row["iter"], row["nonfinite"]) for row in run.steps.rows() if "nonfinite" in row]
    rows += [(record.iter, record.nonfinite) for record in run.evaluations if record.nonfinite]
    found = [(step, [flag for flag in flags if not (scaled and flag == "grad_norm")]) for step, flags in rows]
    found = [(step, flags) for step, flags in found if flags]
    if found:
        step, flags = min(found)
        what = printable(", ".join(flags[:3]))
        advice = "go on from the checkpoint before it with a lower learning_rate or more warmup_steps"
        return failed(name, f"{len(found)} rows are not, the first is step {step:,} ({what})", advice)
    if not len(run.steps) and not run.evaluations:
        return unknown(name, "nothing is logged yet")
    return passed(name, f"all of {len(run.steps):,} steps and {len(run.evaluations):,} evaluations")


def _loss(run: Run) -> Check:
    advice = "check learning_rate and, with `runs show`, that gradients flow; then try another seed"
    return falling(run, "loss", "loss falls", advice)


def _learning_rate(run: Run) -> Check:
    name = "learning rate follows its schedule"
    rows = known_rows(run, "lr")
    peak, planned = setting(run, "learning_rate"), planned_steps(run)
    if not len(rows) or not peak:
        return unknown(name, "the log has no learning rate, or not the one that was asked for")
    kind, warmup = str(run.config.get("lr_scheduler_type", "linear")), warmup_steps(run, planned)
    kwargs = run.config.get("lr_scheduler_kwargs")
    ratio = kwargs.get("decay_ratio") if isinstance(kwargs, dict) and kwargs.keys() == {"decay_ratio"} else None
    if planned is None or warmup is None or (kwargs and ratio is None):
        return unknown(name, f"now {rows[-1, 1]:.3g} of {peak:.3g}; where the schedule ends is not in the log")
    wanted = _scheduled(kind, rows[:, 0] - 1, peak, warmup, planned, ratio)
    if wanted is None:
        return unknown(name, f"now {rows[-1, 1]:.3g} of {peak:.3g}; {printable(kind)} is a schedule not known here")
    distance = np.abs(rows[:, 1] - wanted)
    worst = int(distance.argmax())
    finding = f"{kind}, {warmup:,} steps of warm-up to {peak:.3g}, now {rows[-1, 1]:.3g}"
    if distance[worst] <= _LR_TOLERANCE * peak:
        return passed(name, finding)
    off = f"step {rows[worst, 0]:,.0f} has {rows[worst, 1]:.3g} instead of {wanted[worst]:.3g}"
    return failed(
        name, f"{finding}; {off}", "something else sets it: an optimizer or scheduler of one's own, or a callback"
    )


def _scheduled(
    kind: str, steps: np.ndarray, peak: float, warmup: int, planned: int, decay_ratio: float | None
) -> np.ndarray | None:
    """The learning rate of the schedules of transformers that most use, after ``steps`` optimiser steps."""
    rest = np.clip((steps - warmup) / max(planned - warmup, 1), 0.0, 1.0)
    after = {
        "linear": 1.0 - rest,
        "cosine": 0.5 * (1.0 + np.cos(math.pi * rest)),
        "constant_with_warmup": np.ones_like(rest),
    }
    if kind == "warmup_stable_decay" and decay_ratio is not None:
        after[kind] = np.clip((planned - steps) / max(1, round(decay_ratio * planned)), 0.0, 1.0)
    if kind == "constant":
        return np.full_like(rest, peak)
    if kind not in after:
        return None
    return peak * np.where(steps < warmup, steps / max(warmup, 1), after[kind])


def _evaluations(run: Run) -> Check:
    name = "evaluation loss falls"
    known = [record for record in run.evaluations if record.nll is not None]
    if not known:
        if run.config.get("eval_strategy") == "no":
            return unknown(name, "evaluation is switched off")
        if run.status == "completed" and "eval_strategy" in run.config:
            return failed(
                name, "the run is complete and was never evaluated", "give it an evaluation set: hf-difflm eval"
            )
        return unknown(name, "there is no evaluation yet")
    first, last, best = known[0], known[-1], run.best_evaluation
    if best is None or len(known) == 1:
        return unknown(name, f"one evaluation, {with_error(first.nll, first.nll_stderr)} at step {first.iter:,}")
    finding = (
        f"{with_error(first.nll, first.nll_stderr)} at step {first.iter:,}, {with_error(last.nll, last.nll_stderr)} at "
        f"step {last.iter:,}, best at step {best.iter:,}"
    )
    error = TREND * math.hypot(first.nll_stderr or 0.0, last.nll_stderr or 0.0)
    fall = (first.nll or 0.0) - (last.nll or 0.0)
    if abs(fall) <= error:
        return unknown(name, f"{finding}: not clear yet")
    advice = "if the training loss falls, it learns by heart: more text or a smaller model; best/ has the best weights"
    return judged(name, fall > 0, finding, advice)


def _throughput(run: Run) -> Check:
    name = "throughput is steady"
    rates = known_rows(run, "tokens_per_sec")[:, 1]
    if len(rates) < FEW_FOR_TRENDS:
        return unknown(name, f"{count(run.tokens_per_sec)} tokens/s; {FEW_FOR_TRENDS} reports are needed to tell")
    usual, late = float(np.median(rates)), float(np.median(rates[-len(rates) // 5 :]))
    times = run.known("time_ms")
    seconds = duration(float((times[:, 1] * times[:, 2]).sum()) / 1e3)
    finding = f"median {usual:,.0f} tokens/s over {seconds} of training, {late:,.0f} in the last fifth"
    advice = "see data_wait_s and the phases in `runs show`, and who else uses the machine"
    return judged(name, late >= _SLOWEST * usual, finding, advice)


def _memory(run: Run) -> Check:
    name = "memory is steady"
    for key, place in (("throughput/peak_memory_mb", "device"), ("throughput/host_memory_mb", "host")):
        values = [record.metrics.get(key) for record in run.measurements if record.source == "throughput"]
        known = np.array([value for value in values if isinstance(value, (int, float))], dtype=float)
        if not len(known):
            continue
        if len(known) < 6:
            return unknown(name, f"peak {known[-1]:,.0f} MiB ({place}); {len(known)} reports are too few to tell")
        # Peaks never fall: what matters is whether they still rise after the first half.
        half, last = known[len(known) // 2], known[-1]
        finding = f"peak {half:,.0f} MiB after half of the reports, {last:,.0f} MiB at the last ({place})"
        return judged(name, last <= _GROWTH * half, finding, "something keeps tensors alive from step to step")
    return unknown(name, "the log has no memory reports")
