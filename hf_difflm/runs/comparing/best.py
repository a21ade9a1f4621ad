"""The best of several runs by a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import UserError, did_you_mean
from ..derived.document import summarize
from ..journal.run import Run
from ..journal.tables import printable, significant, with_error
from ..reading.places import typed

_HIGHER_IS_BETTER = ("accuracy", "tokens_per_sec", "mfu", "distinct", "entropy", "bleu", "rouge", "mauve")


def best_run(runs: Sequence[Run], metric: str = "eval_nll") -> dict[str, Any]:
    """Return the run with the best value of a metric: its path, name, value, standard error, step and bound.

    Args:
        runs: at least one; those without the metric are left out.
        metric: an evaluation metric, a quantity of the steps or a key of the summary; ``val_loss`` and ``eval_loss`` are
            other names of ``eval_nll``. Lowest is best, except for accuracy, throughput and the like.

    Raises:
        UserError: no run knows the metric.
    """
    metric = {"val_loss": "eval_nll", "eval_loss": "eval_nll", "best_val_loss": "eval_nll"}.get(metric, metric)
    sign = -1.0 if any(word in metric for word in _HIGHER_IS_BETTER) else 1.0
    found = [(run, candidate) for run in runs if (candidate := _best_value(run, metric, sign)) is not None]
    if not found:
        known = _known_metrics(runs)
        raise UserError(
            f"no run has the metric {metric!r}{did_you_mean(metric, known)}; known are {', '.join(known) or 'none'}"
        )
    run, (value, stderr, step) = min(found, key=lambda pair: sign * pair[1][0])
    return {
        "path": typed(run),
        "run_name": run.name,
        "metric": metric,
        "value": value,
        "stderr": stderr,
        "iter": step,
        "bound": run.bound if metric == "eval_nll" else None,
        "compared": len(found),
    }


def best_text(best: dict[str, Any]) -> str:
    """Return what :func:`best_run` found as one line that begins with the path."""
    value = with_error(best["value"], best["stderr"]) if best["stderr"] else significant(best["value"])
    step = "" if best["iter"] is None else f" at step {best['iter']:,}"
    bound = f" ({best['bound']})" if best["bound"] else ""
    runs = "1 run" if best["compared"] == 1 else f"{best['compared']} runs"
    return printable(f"{best['path']}: {best['metric']} {value}{step}{bound}, best of {runs}")


def _best_value(run: Run, metric: str, sign: float) -> tuple[float, float | None, int | None] | None:
    if metric == "eval_nll":
        best = run.best_evaluation
        return None if best is None or best.nll is None else (best.nll, best.nll_stderr, best.iter)
    values = [
        (value, record.number(f"{metric}_stderr"), record.iter)
        for record in run.evaluations
        if (value := record.number(metric)) is not None
    ]
    if values:
        return min(values, key=lambda item: sign * item[0])
    column = run.column(metric)
    if np.isfinite(column).any():
        place = int(np.nanargmin(sign * column))
        return float(column[place]), None, int(run.column("iter")[place])
    value = summarize(run).get(metric)
    return (float(value), None, None) if isinstance(value, (int, float)) else None


def _known_metrics(runs: Sequence[Run]) -> list[str]:
    names: dict[str, None] = {}
    for run in runs:
        names.update(dict.fromkeys(["eval_nll"] if run.best_evaluation else []))
        names.update({name: None for record in run.evaluations for name in record.metrics if record.number(name)})
        names.update(dict.fromkeys(name for name in run.steps.quantities if name not in ("iter", "steps")))
        names.update({name: None for name, value in summarize(run).items() if value is not None})
    return sorted(names)
