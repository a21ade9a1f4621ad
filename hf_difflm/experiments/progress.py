"""What a person sees while a run trains: a line at its start, a bar, and one line a logging step."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..callbacks.measuring.engines import compute_dtype, engine_of
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


class StartLine(TrainerCallback):
    """Prints the line when the training begins: only then the Trainer knows its steps, also where epochs were asked for."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        print(start_line(args, state, model), flush=True)


def start_line(args: TrainingArguments, state: TrainerState, model: torch.nn.Module | None) -> str:
    """Return it: ``on cpu in float32, batch 32 = 8 per device x 4 accumulated x 1 process, 300 steps``."""
    device = args.device
    named = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    rows, accumulated, processes = args.per_device_train_batch_size, args.gradient_accumulation_steps, args.world_size
    batch = rows * accumulated * processes
    count = f"{processes} process{'es' if processes > 1 else ''}"
    engine = "" if engine_of(args) == "single" else f", {engine_of(args)}"
    begun = f", from step {state.global_step:,}" if state.global_step else ""
    return (
        f"on {device.type}{named} in {compute_dtype(args, model)}{engine}, batch {batch:,} = {rows:,} per device x "
        f"{accumulated:,} accumulated x {count}, {state.max_steps:,} steps{begun}"
    )
