"""The evaluations of a run as the rows of a table."""

from __future__ import annotations

import numpy as np

from ..journal.run import Run
from ..journal.schema import EvaluationRecord
from ..journal.tables import count, number, with_error


def evaluation_headings(run: Run) -> list[str]:
    """Return what stands above :func:`evaluation_cells`."""
    training = "weighted training loss" if run.training_loss_label.startswith("weighted") else "training loss"
    return ["step", training, f"{run.loss_unit or 'loss'} ± se", "bits/byte", "perplexity", "accuracy"]


def evaluation_note(unit: str) -> str:
    """Return what the numbers are that evaluations are ranked by; ``unit`` is that of all of them, or empty."""
    if unit:
        return f"{unit} ± se is the negative log-likelihood per scored token and the standard error of its estimate."
    return "loss ± se is what each Trainer calls its evaluation loss; what it is the mean of, not every log says."


def train_losses(run: Run) -> list[float | None]:
    """Return, for each evaluation, the mean training loss of the steps since the one before; None where there is none.

    A second evaluation at the same step has the same training before it.
    """
    iters, losses, weights = run.column("iter"), run.column("loss"), run.column("steps")
    known = np.isfinite(losses)
    iters, weights = iters[known], weights[known]
    sums = np.concatenate([[0.0], np.cumsum(losses[known] * weights)])
    counts = np.concatenate([[0.0], np.cumsum(weights)])
    found: list[float | None] = []
    begin, last = 0, None
    for record in run.evaluations:
        end = max(int(np.searchsorted(iters, record.iter, side="right")), begin)
        weight = counts[end] - counts[begin]
        if record.train_loss is not None:
            found.append(record.train_loss)
        elif last is not None and record.iter == last.iter and not weight:
            found.append(found[-1])
        else:
            found.append(float(sums[end] - sums[begin]) / float(weight) if weight else None)
        begin, last = end, record
    return found


def evaluation_cells(run: Run) -> list[list[str]]:
    """Return one row of text an evaluation that has an nll, under :func:`evaluation_headings`."""
    pairs = zip(run.evaluations, train_losses(run), strict=True)
    return [_cells(record, loss) for record, loss in pairs if record.nll is not None]


def _cells(record: EvaluationRecord, train_loss: float | None) -> list[str]:
    return [
        count(record.iter),
        number(train_loss, 4),
        with_error(record.nll, record.nll_stderr),
        number(record.number("eval_bpb"), 4),
        number(record.number("eval_ppl"), 3),
        number(record.number("eval_accuracy"), 4),
    ]
