"""The samples of a run as text: for each prompt, what the model wrote from the first step to the last."""

from __future__ import annotations

import textwrap
from typing import Any

from ...errors import UserError
from ..journal.run import Run
from ..journal.tables import count, printable, shortened
from .sample_groups import SampleGroup, blank_said, mode_of, quality_line, sample_groups

_INDENT = "  "
CHARACTERS = 600
"""Of a text that are printed unless all are asked for."""


def samples_text(run: Run, width: int, prompt: str | None = None, whole: bool = False) -> str:
    """Return the samples for a terminal: a block for each prompt and mode, in it a text for each step.

    Control characters are shown and not obeyed. Texts are cut to :data:`CHARACTERS` characters unless ``whole``.

    Raises:
        UserError: the run has no samples, or none after this prompt.
    """
    blocks = []
    for group in sample_groups([run], prompt):
        lines = [_title(group)]
        for step in sorted(group.by_step):
            (sample,) = group.by_step[step].values()
            quality = quality_line(sample.extra)
            lines.append(f"step {count(step)}" + (f"   {quality}" if quality else ""))
            lines += _wrapped(sample.text, width, whole)
        blocks.append("\n".join(lines))
    if not blocks:
        _refuse(run, prompt)
    return "\n\n".join(blocks)


def samples_data(run: Run, prompt: str | None = None) -> list[dict[str, Any]]:
    """Return the samples as they were logged, in the order of training.

    Raises:
        UserError: the run has no samples, or none after this prompt.
    """
    found = [
        {"iter": sample.iter, "prompt": sample.prompt, "mode": mode_of(sample) or None, "text": sample.text}
        | {name: value for name, value in sample.extra.items() if name != "mode"}
        for sample in run.samples
        if prompt is None or sample.prompt == prompt
    ]
    if not found:
        _refuse(run, prompt)
    return found


def _refuse(run: Run, prompt: str | None) -> None:
    if not run.samples:
        raise UserError(f"run {run.name!r} has no samples; a model that is being trained writes them at an interval")
    prompts = ", ".join(f"'{shortened(known)}'" for known in dict.fromkeys(sample.prompt for sample in run.samples))
    raise UserError(f"run {run.name!r} has no samples after '{shortened(prompt)}'; its prompts are {prompts}")


def _title(group: SampleGroup) -> str:
    prompt = f"prompt '{shortened(group.prompt)}'" if group.prompt else "no prompt"
    notes = [shortened(group.mode)] if group.mode else []
    if group.place:
        notes.append(f"number {group.place + 1}")
    return f"=== {prompt}" + (f" ({', '.join(notes)})" if notes else "")


def _wrapped(text: str, width: int, whole: bool) -> list[str]:
    if (blank := blank_said(text)) is not None:
        return [f"{_INDENT}{blank}"]
    shown = text if whole else text[:CHARACTERS]
    lines = []
    for line in printable(shown).splitlines() or [""]:
        lines += textwrap.wrap(
            line,
            max(width, 20),
            initial_indent=_INDENT,
            subsequent_indent=_INDENT,
            replace_whitespace=False,
            drop_whitespace=False,
            expand_tabs=False,
        ) or [""]
    if not text:
        lines = [f"{_INDENT}(nothing)"]
    if len(shown) < len(text):
        lines.append(f"{_INDENT}… {count(len(text) - len(shown))} more characters")
    return lines
