"""The metric that chooses the best weights: one that the evaluations will have."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..objectives import Objective
from ..runs.journal.quantities import EVALUATION

logger = logging.getLogger(__name__)
_RANKED = ("_nll", "_bpb", "_ppl", "_accuracy")
_IF_KNOWN = ("bpb", "native_nll", "native_nll_stderr", "native_forwards")


def chosen_metric(metric: str, eval_dataset: Any, objective: Objective) -> str:
    """Return the metric by its whole name, that of the first set where there are several and it is of none.

    Args:
        metric: ``metric_for_best_model``.
        eval_dataset: one set of rows, or several by name.
        objective: says whether there is a native bound.

    Raises:
        UserError: no evaluation will have it.
    """
    whole = f"eval_{metric.removeprefix('eval_')}"
    sets = eval_dataset if isinstance(eval_dataset, Mapping) else {"": eval_dataset}
    known = {
        f"eval_{name}_{one}" if name else f"eval_{one}": name for name in sets for one in _of(sets[name], objective)
    }
    if whole in known:
        return whole
    if whole.endswith("_bpb"):
        raise UserError(
            f"metric_for_best_model is {metric}, but the rows of eval_dataset have no num_bytes to count bits per byte of; "
            "add them, or choose eval_nll"
        )
    first = next(iter(sets))
    if first and (of_first := f"eval_{first}_{whole.removeprefix('eval_')}") in known:
        logger.warning(
            "there are several evaluation sets, and best/ is chosen by %s, of the first; set metric_for_best_model to the "
            "metric of another to choose by that",
            of_first,
        )
        return of_first
    ranked = [name for name in known if name.endswith(_RANKED)]
    raise UserError(
        f"metric_for_best_model is {metric!r}, which no evaluation here will have; take one of {', '.join(ranked)}"
    )


def _of(dataset: Any, objective: Objective) -> list[str]:
    """Names of metrics of one set, without a prefix."""
    row = dataset[0]
    left_out = set(_IF_KNOWN)
    if isinstance(row, Mapping) and "num_bytes" in row:
        left_out.discard("bpb")
    if not (objective.train_objective or "p0").startswith("p0"):  # which has no bound of its own
        left_out -= {name for name in _IF_KNOWN if name.startswith("native")}
    return [name for name in EVALUATION if name not in left_out]
