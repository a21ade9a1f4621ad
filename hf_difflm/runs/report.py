"""A markdown page about one run or several, written from their logs alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from .comparison import compare_runs, count, labels, markdown_table, number, with_error
from .document import build_document
from .files import JOURNAL_NAME, write_text
from .plots import plot_comparison, smoothing_window
from .run import Run

_MAX_SAMPLES = 4  # of the last sampled step
_MAX_CHARACTERS = 1200
_ABSOLUTE = re.compile(r"(?:^|(?<=[\s='\"]))/(?:[^\s'\"/]+/)*([^\s'\"/]+)/?")


def write_report(
    runs: Sequence[Run], path: str | Path, *, title: str = "Results", command: str | None = None
) -> tuple[Path, Path]:
    """Write the page and, next to it, the picture it shows; return the paths of both.

    The page holds the comparison table with its fairness note, the curves, every evaluation with its standard error,
    the last samples and the commands that made the runs. No absolute path gets into it.

    Args:
        runs: one or more runs.
        path: the markdown file; the picture is ``{stem}-curves.png`` in the same folder.
        title: first heading.
        command: the command that writes this page; by default ``hf-difflm report`` with these runs.

    Raises:
        UserError: no run was given.
    """
    path = Path(path)
    picture = path.with_name(f"{path.stem}-curves.png")
    comparison = compare_runs(runs)
    plot_comparison(runs, picture)
    if command is None:
        command = shlex.join(["hf-difflm", "report", *(_place(run.path) for run in runs), "--output", _shown(path)])
    names = labels(runs)
    parts = [
        f"# {title}",
        f"Generated from run logs; do not edit. This page was written by\n\n{_fenced(_relative(command), 'sh')}",
        f"## Comparison\n\n{comparison.to_markdown()}\n{_explanation(runs)}",
        f"## Curves\n\n![training loss and evaluation nll over optimiser steps]({picture.name})\n\n{_curve_note(runs)}",
        "## Evaluations\n\n" + "\n\n".join(_evaluations(run, name) for run, name in zip(runs, names, strict=True)),
        *_samples(runs, names),
        f"## How these runs were made\n\n{_commands(runs, names)}",
    ]
    write_text(path, "\n\n".join(parts) + "\n")
    return path, picture


def _explanation(runs: Sequence[Run]) -> str:
    bounds = {run.bound for run in runs}
    lines = ["nats/token ± se is the negative log-likelihood per scored token and the standard error of its estimate."]
    if "nelbo" in bounds:
        lines.append(
            "A `nelbo` is an upper bound on it, so the model itself may be better; `exact` is the value itself."
        )
    lines.append("Each line quotes the evaluation with the lowest value, whose step is the last column.")
    return "\n".join(lines)


def _curve_note(runs: Sequence[Run]) -> str:
    windows = sorted({smoothing_window(len(run.steps)) for run in runs} - {1})
    smoothed = f"; the thick line is the mean over {' or '.join(map(str, windows))} of them" if windows else ""
    return f"Left: the loss of every logged training step{smoothed}. Right: evaluation nll with standard errors."


def _evaluations(run: Run, name: str) -> str:
    records = [record for record in run.evaluations if record.nll is not None]
    if not records:
        return f"### {name}\n\nNo evaluation was logged."
    train_losses = [row["train_loss"] for row in build_document(run)["eval_steps"] if row["val_loss"] is not None]
    rows = [
        [
            count(record.iter),
            number(train_loss, 4),
            with_error(record.nll, record.nll_stderr),
            number(record.number("eval_bpb"), 4),
            number(record.number("eval_ppl"), 3),
            number(record.number("eval_accuracy"), 4),
        ]
        for record, train_loss in zip(records, train_losses, strict=True)
    ]
    headings = ["step", "training loss", "nats/token ± se", "bits/byte", "perplexity", "accuracy"]
    return f"### {name} ({run.status})\n\n{markdown_table(headings, rows)}"


def _samples(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    parts = []
    for run, name in zip(runs, names, strict=True):
        last = run.samples[-1].iter if run.samples else None
        samples = [record for record in run.samples if record.iter == last][:_MAX_SAMPLES]
        if samples:
            parts.append(f"### {name}, step {last}")
        for record in samples:
            prompt = f"Prompt:\n\n{_fenced(record.prompt)}\n\nText:" if record.prompt else "No prompt:"
            parts.append(f"{prompt}\n\n{_fenced(record.text)}")
    return ["## Samples", *parts] if parts else []


def _commands(runs: Sequence[Run], names: Sequence[str]) -> str:
    made: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for header in run.headers:
            command = header.metadata.get("command")
            if isinstance(command, str) and name not in made.setdefault(command, []):
                made[command].append(name)
    if not made:
        return "The logs do not say."
    return "\n\n".join(f"{', '.join(found)}:\n\n{_fenced(_relative(command), 'sh')}" for command, found in made.items())


def _fenced(text: str, language: str = "text") -> str:
    """A code block that no text can break out of; control characters are shown, not obeyed."""
    text = text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " ..."
    text = "".join(char if char == "\n" or char == "\t" or char.isprintable() else repr(char)[1:-1] for char in text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _relative(command: str) -> str:
    """The command without absolute paths: inside the working folder relative to it, elsewhere the last part alone."""
    here = str(Path.cwd())
    return _ABSOLUTE.sub(lambda match: match.group(1), command.replace(here + "/", ""))


def _place(path: Path) -> str:
    return _shown(path.parent if path.name == JOURNAL_NAME else path)


def _shown(path: Path) -> str:
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else absolute.name
