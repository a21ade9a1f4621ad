"""What a logging step and an evaluation say in one line, on the terminal and in the text log."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

TEXT_LOG_NAME = "train.log"

# Told in other words, or too much for a line; the run log has them all.
_UNSAID = frozenset(
    {
        "loss",
        "learning_rate",
        "grad_norm",
        "noise_level",
        "masking_rate",
        "accuracy",
        "tokens_per_sec",
        "time_ms",
        "mfu",
        "epoch",
        "num_input_tokens_seen",
        "total_flos",
    }
    | {f"{name}_{end}" for name in ("noise_level", "masking_rate") for end in ("min", "max")}
)
_LEARNT = ("importance_", "curriculum_")


def step_fields(step: int, max_steps: int, logs: Mapping[str, Any]) -> dict[str, str]:
    """What a Trainer logs of a step, in words: name to text, in the order of the line; what is not known is left out.

    Args:
        step: optimiser steps done.
        max_steps: optimiser steps of the whole training.
        logs: what the Trainer logs; numbers that have no words of their own are called by their names (``others``).
    """
    known = {name: value for name, value in logs.items() if isinstance(value, Real) and not isinstance(value, bool)}
    noise = [f"{name}={known[name]:.3f}" for name in ("noise_level", "masking_rate") if name in known]
    learnt = {name: value for name, value in known.items() if name.startswith(_LEARNT)}
    others = {name: value for name, value in known.items() if name not in learnt and name not in _UNSAID}
    fields = {
        "step": _step(step, max_steps),
        "loss": f"Loss: {known['loss']:.4f}" if "loss" in known else "",
        "lr": f"LR: {known['learning_rate']:.2e}" if "learning_rate" in known else "",
        "norm": f"grad_norm={known['grad_norm']:.3f}" if "grad_norm" in known else "",
        "noise": ", ".join(noise),
        "accuracy": f"accuracy={known['accuracy']:.3f}" if "accuracy" in known else "",
        "speed": f"{known['tokens_per_sec']:,.0f} tokens/s" if "tokens_per_sec" in known else "",
        "learnt": _named(learnt),
        "others": _named(others),
    }
    return {name: text for name, text in fields.items() if text}


def evaluation_fields(step: int, max_steps: int, metrics: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation measured, in the words of the terminal; see :func:`step_fields`."""
    error = f" ± {metrics['eval_nll_stderr']:.4f}" if metrics.get("eval_nll_stderr") else ""
    return {
        "step": _step(step, max_steps),
        "nll": f"eval_nll: {metrics['eval_nll']:.4f}{error} nats/token",
        "ppl": f"eval_ppl: {metrics['eval_ppl']:.2f}",
        "accuracy": f"eval_accuracy: {metrics['eval_accuracy']:.3f}",
    }


def validation_fields(step: int, max_steps: int, metrics: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation measured, in the words of text logs: ``val_loss`` and, where it is known, ``perplexity``.

    Args:
        step: optimiser steps done.
        max_steps: optimiser steps of the whole training.
        metrics: what ``evaluate`` returned; one of several evaluation sets is named by the prefix of the names.
    """
    prefix = next((name.removesuffix("runtime") for name in metrics if name.endswith("_runtime")), "eval_")
    known = {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix) and isinstance(value, Real) and not isinstance(value, bool)
    }
    loss = known.get("nll", known.get("loss"))
    error = f" ± {known['nll_stderr']:.4f}" if known.get("nll_stderr") else ""
    native = f"native_nll: {known['native_nll']:.4f}" if "native_nll" in known else ""
    fields = {
        "step": _step(step, max_steps),
        "set": prefix.strip("_").removeprefix("eval").strip("_"),
        "loss": "" if loss is None else f"val_loss: {loss:.4f}{error}",
        "perplexity": f"perplexity: {known['ppl']:.2f}" if "ppl" in known else "",
        "accuracy": f"accuracy: {known['accuracy']:.3f}" if "accuracy" in known else "",
        "native": native,
    }
    return {name: text for name, text in fields.items() if text}


def joined(fields: Mapping[str, str]) -> str:
    """The fields as one line, without its line break."""
    return " | ".join(fields.values())


def _step(step: int, max_steps: int) -> str:
    return f"Step {step}/{max_steps}"


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {float(value):.4g}" for name, value in values.items())
