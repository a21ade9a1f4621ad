"""What a person sees while a run trains: a bar, and one line a logging step."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from transformers import TrainerCallback, TrainerState

from ..callbacks.recording.log_lines import evaluation_fields, joined, step_fields

_UNLIMITED = 10_000  # columns


class ConsoleCallback(TrainerCallback):
    """A progress bar on stderr with one readable line for each logging step and evaluation.

    The lines are those of the text log (:class:`~hf_difflm.callbacks.text_log.TextLogCallback`), as far as the terminal has
    room for them; evaluations are told in our own names.

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
            fields = step_fields(state.global_step, state.max_steps, logs)
            self._tqdm.write(_fitted(fields, ("others", "learnt", "lr", "norm", "speed", "accuracy")), file=sys.stderr)
        elif "eval_nll" in logs:
            fields = evaluation_fields(state.global_step, state.max_steps, logs)
            self._tqdm.write(_fitted(fields, ("accuracy", "ppl")), file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the bar; safe to call twice."""
        if self._tqdm is not None:
            self._tqdm.close()
            self._tqdm = None


def _fitted(fields: dict[str, str], dispensable: tuple[str, ...]) -> str:
    """As many fields as a terminal has room for in one line; all of them where the line goes to a file."""
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else _UNLIMITED
    line = joined(fields)
    if len(line) < width or not dispensable:
        return line
    first, *others = dispensable
    return _fitted({name: field for name, field in fields.items() if name != first}, tuple(others))
