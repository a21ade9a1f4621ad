"""The best of several runs by a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import UserError, did_you_mean
from ..derived.document import summarize
from ..journal.quantities import HIGHER, LIKELIHOOD, MEASURED, quantity
from ..journal.run import Run
from ..journal.tables import printable, significant, with_error
from ..reading.places import typed
from .accuracies import accuracy_task
from .verdicts import BOUND, kind_of


def best_run(runs: Sequence[Run], metric: str = "eval_nll", direction: str | None = None) -> dict[str, Any]:
    """Return the run with the best value of a metric: its path, name, value, standard error, step, bound and caveats.

    Args:
        runs: at least one; those without the metric are left out.
        metric: an evaluation metric, a quantity of the steps or a key of the summary; ``val_loss`` and ``eval_loss`` are
            other names of ``eval_nll``.
        direction: which is better, "lower" or "higher"; known of what we log ourselves (:mod:`..journal.quantities`).

    Raises:
        UserError: no run knows the metric, or it is not known which way is better.
    """
    metric = {"val_loss": "eval_nll", "eval_loss": "eval_nll", "best_val_loss": "eval_nll"}.get(metric, metric)
    sign = -1.0 if direction == HIGHER else 1.0  # of an unknown metric any will do, to see whether it is there
    found = [(run, candidate) for run in runs if (candidate := _best_value(run, metric, sign)) is not None]
    if not found:
        known = _known_metrics(runs)
        raise UserError(
            f"no run has the metric {metric!r}{did_you_mean(metric, known)}; known are {', '.join(known) or 'none'}"
        )
    direction = direction or _direction(metric)
    sign = -1.0 if direction == HIGHER else 1.0
    found = [(run, candidate) for run in runs if (candidate := _best_value(run, metric, sign)) is not None]
    run, (value, stderr, step) = min(found, key=lambda pair: sign * pair[1][0])
    return {
        "path": typed(run),
        "run_name": run.name,
        "metric": f"eval_{run.nll_name}" if metric == "eval_nll" else metric,
        "direction": direction,
        "value": value,
        "stderr": stderr,
        "iter": step,
        "bound": run.bound if _is_likelihood(metric) else None,
        "caveats": _caveats(metric, [other for other, _ in found]),
        "compared": len(found),
    }


def best_text(best: dict[str, Any]) -> str:
    """Return what :func:`best_run` found as one line that begins with the path."""
    value = with_error(best["value"], best["stderr"]) if best["stderr"] else significant(best["value"])
    step = "" if best["iter"] is None else f" at step {best['iter']:,}"
    bound = f" ({best['bound']})" if best["bound"] else ""
    runs = "1 run" if best["compared"] == 1 else f"{best['compared']} runs"
    caveats = "".join(f"; {caveat}" for caveat in best["caveats"])
    ranked = "highest" if best["direction"] == HIGHER else "lowest"
    return printable(f"{best['path']}: {best['metric']} {value}{step}{bound}, {ranked} of {runs}{caveats}")


def _direction(metric: str) -> str:
    known = quantity(metric)
    if known is None or known.better is None:
        why = "is not one of ours" if known is None else "is neither better lower nor higher"
        raise UserError(f"{metric!r} {why}; say which run is the best by it: --direction lower or --direction higher")
    return known.better


def _is_likelihood(metric: str) -> bool:
    known = quantity(metric)
    return known is not None and known.kind == LIKELIHOOD


def _caveats(metric: str, runs: Sequence[Run]) -> list[str]:
    """What makes the values of several runs numbers of different things."""
    found = []
    if _is_likelihood(metric):
        bounds = [kind_of(run.bound) for run in runs]
        if len(set(bounds)) > 1 and BOUND in bounds:
            found.append("upper bounds and exact numbers are among them, and the model behind a bound may be better")
        if len({run.loss_unit for run in runs}) > 1:
            found.append("not all of them log a nll per token")
    tasks = {accuracy_task(run.objective) for run in runs}
    if metric.startswith(("accuracy", "eval_accuracy")) and len(tasks) > 1:
        found.append(f"{' and '.join(sorted(tasks))} are two tasks")
    return found


def _best_value(run: Run, metric: str, sign: float) -> tuple[float, float | None, int | None] | None:
    if metric == "eval_nll":
        best = run.lowest_evaluation
        return None if best is None or best.nll is None else (best.nll, best.nll_stderr, best.iter)
    values = [
        (value, record.number(f"{metric}_stderr"), record.iter)
        for record in run.evaluations
        if (value := record.number(metric)) is not None
    ]
    if values:
        return min(values, key=lambda item: sign * item[0])
    rows = run.known(metric)
    if len(rows):
        step, _, value = rows[int(np.argmin(sign * rows[:, 2]))]
        return float(value), None, int(step)
    value = summarize(run).get(metric)
    return (float(value), None, None) if isinstance(value, (int, float)) else None


def _known_metrics(runs: Sequence[Run]) -> list[str]:
    names: dict[str, None] = {}
    for run in runs:
        names.update(dict.fromkeys(["eval_nll"] if run.best_evaluation else []))
        names.update({name: None for record in run.evaluations for name in record.metrics if record.number(name)})
        names.update(dict.fromkeys(name for name in run.steps.quantities if name not in ("iter", "steps")))
        names.update({name: None for name in MEASURED if name not in names and len(run.known(name))})
        names.update({name: None for name, value in summarize(run).items() if value is not None})
    return sorted(names)
