"""What a person sees while a run trains: a bar, and one line a logging step."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from transformers import TrainerCallback, TrainerState

_UNLIMITED = 10_000  # columns


class ConsoleCallback(TrainerCallback):
    """A progress bar on stderr with one readable line for each logging step and evaluation.

    The lines keep the words ``Step``, ``Loss``, ``noise_level`` and ``masking_rate``, so that grep finds them in a text log.

    Args:
        label: name of the bar, e.g. the objective.
        bar: whether to draw the bar (not wanted in a log file).
    """

    def __init__(self, label: str = "train", bar: bool = True):
        self.label = label
        self.bar = bar
        self._tqdm: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            from tqdm.auto import tqdm

            self._tqdm = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.label,
                unit="step",
                dynamic_ncols=True,
                disable=not self.bar,
                mininterval=0.5,
            )

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        if self._tqdm is not None:
            self._tqdm.update(state.global_step - self._tqdm.n)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if self._tqdm is None or not logs:
            return
        if "loss" in logs:
            self._tqdm.write(_step_line(state, logs), file=sys.stderr)
        elif "eval_nll" in logs:
            self._tqdm.write(_evaluation_line(state, logs), file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the bar; safe to call twice."""
        if self._tqdm is not None:
            self._tqdm.close()
            self._tqdm = None


def _step_line(state: TrainerState, logs: dict[str, Any]) -> str:
    fields = {
        "step": f"Step {state.global_step}/{state.max_steps}",
        "loss": f"Loss: {logs['loss']:.4f}",
        "lr": f"LR: {logs['learning_rate']:.2e}",
        "norm": f"grad_norm={logs['grad_norm']:.3f}",
        "noise": ", ".join(f"{name}={logs[name]:.3f}" for name in ("noise_level", "masking_rate") if name in logs),
        "accuracy": f"accuracy={logs['accuracy']:.3f}" if "accuracy" in logs else "",
        "speed": f"{logs['tokens_per_sec']:,.0f} tokens/s",
    }
    return _fitted(fields, ("lr", "norm", "speed", "accuracy"))


def _evaluation_line(state: TrainerState, logs: dict[str, Any]) -> str:
    error = f" ± {logs['eval_nll_stderr']:.4f}" if logs.get("eval_nll_stderr") else ""
    fields = {
        "step": f"Step {state.global_step}/{state.max_steps}",
        "nll": f"eval_nll: {logs['eval_nll']:.4f}{error} nats/token",
        "ppl": f"eval_ppl: {logs['eval_ppl']:.2f}",
        "accuracy": f"eval_accuracy: {logs['eval_accuracy']:.3f}",
    }
    return _fitted(fields, ("accuracy", "ppl"))


def _fitted(fields: dict[str, str], dispensable: tuple[str, ...]) -> str:
    """As many fields as a terminal has room for in one line; all of them where the line goes to a file."""
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else _UNLIMITED
    line = " | ".join(field for field in fields.values() if field)
    if len(line) < width or not dispensable:
        return line
    first, *others = dispensable
    return _fitted({name: field for name, field in fields.items() if name != first}, tuple(others))
