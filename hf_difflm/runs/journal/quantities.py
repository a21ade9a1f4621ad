"""What we log, by name: unit, direction, bound or exact, over what. The one table that everything else reads.

A metric that is not in it - of another Trainer, of ``compute_metrics`` - has neither unit nor direction here: whoever asks
for the best of it says which way is better.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

NATS = "nats/token"
LOWER, HIGHER = "lower", "higher"
DIRECTIONS = (LOWER, HIGHER)
LIKELIHOOD = "likelihood"
"""Kind of a number that is exact or an upper bound, as the ``bound`` of its run says."""
EXACT, ESTIMATE = "exact", "estimate"
MEASURED = {
    "grad_norm": "grad_norm/global",
    "mfu": "throughput/mfu",
    "time_ms": "throughput/step_time_ms",
    "tokens_per_sec": "throughput/tokens_per_sec",
}
"""What callbacks call, in their measurements, the quantities of the steps that a stock Trainer does not log."""
LIKELIHOOD_OBJECTIVES = frozenset({"mdlm", "atat", "bd3lm", "ar"})
"""Objectives whose loss is a negative log-likelihood per token; of any other, and of none, the loss has no known unit."""


@dataclass(frozen=True)
class Quantity:
    """One thing that is logged.

    Attributes:
        name: in evaluations without the prefix ``eval_``.
        title: what people call it.
        unit: empty where it has none, or where only the run knows (:func:`loss_unit`).
        better: LOWER, HIGHER, or None where neither is better.
        kind: LIKELIHOOD, EXACT (counted, or a function of the weights alone) or ESTIMATE (drawn or timed).
        over: what it is the mean or the sum over.
    """

    name: str
    title: str
    unit: str
    better: str | None
    kind: str
    over: str

    @property
    def label(self) -> str:
        """The title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


_EVALUATION = (
    Quantity("loss", "loss", "", LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("nll", "nll", NATS, LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("native_nll", "native nll", NATS, LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("bpb", "bits per byte", "bits/byte", LOWER, LIKELIHOOD, "UTF-8 bytes of scored text"),
    Quantity("ppl", "perplexity", "", LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("accuracy", "accuracy", "share", HIGHER, ESTIMATE, "predicted tokens"),
    Quantity("nll_stderr", "standard error of the nll", NATS, LOWER, ESTIMATE, "replicates"),
    Quantity("native_nll_stderr", "standard error of the native nll", NATS, LOWER, ESTIMATE, "replicates"),
    Quantity(
        "nll_data_stderr", "standard error of the nll over documents", NATS, None, ESTIMATE, "documents or blocks"
    ),
    Quantity("replicates", "replicates", "", None, EXACT, "evaluation"),
    Quantity("forwards", "forwards", "sequences", LOWER, EXACT, "evaluation"),
    Quantity("native_forwards", "forwards of the native nll", "sequences", LOWER, EXACT, "evaluation"),
    Quantity("scored_tokens", "scored tokens", "tokens", None, EXACT, "evaluation set"),
    Quantity("runtime", "time of the evaluation", "s", LOWER, ESTIMATE, "evaluation"),
    Quantity("samples_per_second", "sequences a second", "sequences/s", HIGHER, ESTIMATE, "evaluation"),
    Quantity("steps_per_second", "evaluation batches a second", "batches/s", HIGHER, ESTIMATE, "evaluation"),
)
_STEP = (
    Quantity("loss", "loss", "", LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("accuracy", "accuracy", "share", HIGHER, ESTIMATE, "predicted tokens"),
    Quantity("grad_norm", "gradient norm", "", None, EXACT, "parameters"),
    Quantity("lr", "learning rate", "", None, EXACT, "step"),
    Quantity("adamw_learning_rate", "AdamW learning rate", "", None, EXACT, "step"),
    Quantity("time_ms", "step time", "ms", LOWER, ESTIMATE, "step"),
    Quantity("tokens_per_sec", "throughput", "tokens/s", HIGHER, ESTIMATE, "scored tokens"),
    Quantity("mfu", "MFU", "%", HIGHER, ESTIMATE, "step"),
    Quantity("aux_loss", "router loss", "", LOWER, ESTIMATE, "sequences"),
    Quantity("noise_level", "noise level", "", None, ESTIMATE, "sequences"),
    Quantity("masking_rate", "masking rate", "share", None, ESTIMATE, "sequences"),
    Quantity("tokens_seen", "tokens seen", "tokens", None, EXACT, "run"),
    Quantity("total_flops", "model FLOPs", "FLOP", None, EXACT, "run"),
    Quantity("epoch", "epoch", "", None, EXACT, "run"),
)
_SUMMARY = (
    Quantity("best_val_loss", "lowest evaluation", "", LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("final_val_loss", "last evaluation", "", LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("final_train_loss", "last training loss", "", LOWER, LIKELIHOOD, "scored tokens"),
    Quantity("avg_time_ms", "mean step time", "ms", LOWER, ESTIMATE, "step"),
    Quantity("avg_mfu", "mean MFU", "%", HIGHER, ESTIMATE, "step"),
    Quantity("train_seconds", "training time", "s", LOWER, ESTIMATE, "run"),
    Quantity("total_iterations", "steps", "", None, EXACT, "run"),
    Quantity("final_iter", "last step", "", None, EXACT, "run"),
    Quantity("best_val_iter", "step of the lowest evaluation", "", None, EXACT, "run"),
    Quantity("total_eval_steps", "evaluations", "", None, EXACT, "run"),
    Quantity("total_checkpoints", "checkpoints", "", None, EXACT, "run"),
)
EVALUATION = {quantity.name: quantity for quantity in _EVALUATION}
STEP = {quantity.name: quantity for quantity in _STEP}
SUMMARY = {quantity.name: quantity for quantity in _SUMMARY}
# Of one of several evaluation sets the name stands in between: eval_wiki_nll.
_OF_A_SET = ("native_nll", "loss", "nll", "bpb", "ppl", "accuracy")
_SCALES = ("share", "%")
_BIN = re.compile(r"(accuracy|nll)_noise_\d\.\d")


def quantity(name: str) -> Quantity | None:
    """Return what a name of the log stands for - an evaluation metric, a quantity of steps or of the summary; else None."""
    if not name.startswith("eval_"):
        return STEP.get(name) or SUMMARY.get(name)
    inner = name.removeprefix("eval_")
    if found := EVALUATION.get(inner):
        return found
    if binned := _BIN.fullmatch(inner):
        return EVALUATION[binned[1]]
    return next((EVALUATION[end] for end in _OF_A_SET if inner.endswith(f"_{end}")), None)


def quantity_in(name: str, objective: str | None) -> Quantity | None:
    """Return what a name stands for in the log of a run with this objective, with the unit that it has there.

    In the log of another program ``accuracy`` may be a share or per cent, and ``eval_cola_accuracy`` is its own: there no
    scale of ours is known of a name, and only whole names are taken for ours.
    """
    found = quantity(name)
    if found is None or objective in LIKELIHOOD_OBJECTIVES:
        return found
    if found.name != name.removeprefix("eval_"):
        return None
    return replace(found, unit="") if found.unit in _SCALES else found


def evaluation_quantity(name: str) -> Quantity | None:
    """Return what ``nll`` or ``eval_nll`` of an evaluation stands for; None where it is not ours."""
    return quantity(name if name.startswith("eval_") else f"eval_{name}")


def ranked() -> list[str]:
    """Return the names of evaluation metrics by which weights may be chosen."""
    return [f"eval_{name}" for name in _OF_A_SET if name != "loss"]


def loss_unit(objective: str | None, bound: str | None, metrics: Iterable[str] = ()) -> str:
    """Return :data:`NATS` where the loss of a run is known to be an nll per token, else nothing.

    Args:
        objective: that the log names.
        bound: that the log names.
        metrics: names of its evaluation metrics.
    """
    return NATS if objective in LIKELIHOOD_OBJECTIVES or bound is not None or "eval_nll" in metrics else ""
