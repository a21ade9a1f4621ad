"""Pictures of runs: every kind by its name, and the one beside the table of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ...errors import UserError, did_you_mean
from ..comparing.seeds import seed_groups
from ..comparing.table import labels
from ..journal.atomic_files import file_stem
from ..journal.run import Run
from .axes import AXES
from .evaluation import draw_comparison, draw_milestones, draw_validation
from .measured import draw_gradients, draw_statistics, draw_throughput
from .metric import draw_metric
from .scalars import named, scalar_names
from .series import Drawing, NothingToDraw
from .style import FORMATS, save
from .training import (
    draw_loss_per_epoch,
    draw_loss_per_step,
    draw_loss_smoothed,
    draw_mfu,
    draw_step_time_histogram,
)

KINDS: dict[str, Callable[[Drawing], Figure]] = {
    "loss_per_step": draw_loss_per_step,
    "loss_per_epoch": draw_loss_per_epoch,
    "loss_smoothed": draw_loss_smoothed,
    "step_time_histogram": draw_step_time_histogram,
    "mfu": draw_mfu,
    "comparison": draw_comparison,
    "validation": draw_validation,
    "milestones": draw_milestones,
}
"""The kinds of pictures; each writes the file of its name."""
MEASURED_KINDS: dict[str, Callable[[Drawing], Figure]] = {
    "gradients": draw_gradients,
    "statistics": draw_statistics,
    "throughput": draw_throughput,
}
"""Those of what callbacks have measured, a row for each run; drawn where they are asked for."""


@dataclass(frozen=True)
class Plots:
    """What was drawn: the files in the order of the kinds, and a sentence for each kind that had nothing to show."""

    paths: list[Path]
    left_out: list[str]


def plot_runs(
    runs: Sequence[Run],
    output_dir: str | Path,
    kinds: Sequence[str] = (),
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    picture_format: str = "png",
    x: str = "step",
    metrics: Sequence[str] = (),
) -> Plots:
    """Draw runs, one file ``{kind}.{format}`` for each kind and ``{metric}.{format}`` for each metric.

    Args:
        runs: at least one. Several seeds of one configuration are drawn as their mean and its standard error, except
            where each step or its time is shown.
        output_dir: folder of the pictures, made where it is missing.
        kinds: keys of :data:`KINDS`, by default all of them, or none where metrics are named; and of
            :data:`MEASURED_KINDS`.
        names: what to call the runs; by default their own names.
        title: stands above each picture.
        picture_format: png, svg or pdf.
        x: key of ``AXES``: step, epoch, tokens, flops or time.
        metrics: names of scalars, of any that a run has logged (:func:`~hf_difflm.runs.plots.scalars.scalar_names`).

    Raises:
        UserError: no run was given, a kind, metric, axis or format is unknown, the names do not fit, or there is nothing
            to show.
    """
    for kind in kinds:
        _check("kind of plot", kind, [*KINDS, *MEASURED_KINDS])
    _check("x axis", x, list(AXES))
    _check("format", picture_format, FORMATS)
    drawing = _drawing(runs, names, title, x)
    known = scalar_names(runs) if metrics else []
    for metric in metrics:
        _check("metric", named(metric), known)
    paths: list[Path] = []
    left_out: list[str] = []
    pictures: dict[str, Callable[[Drawing], Figure]] = {
        kind: (KINDS | MEASURED_KINDS)[kind] for kind in (kinds or (() if metrics else KINDS))
    }
    pictures |= {metric: partial(draw_metric, name=named(metric)) for metric in metrics}
    for name, draw in pictures.items():
        try:
            figure = draw(drawing)
        except NothingToDraw as reason:
            left_out.append(f"{name} was left out: {reason}")
            continue
        paths.append(save(figure, Path(output_dir) / f"{file_stem(name)}.{picture_format}"))
    if not paths:
        raise UserError(f"there is nothing to plot: {'; '.join(left_out)}")
    return Plots(paths, left_out)


def plot_comparison(
    runs: Sequence[Run], path: str | Path, title: str | None = None, names: Sequence[str] | None = None
) -> Path:
    """Draw training loss and evaluation nll over steps, one colour a run, and return the path of the picture.

    Left: every logged training loss (light) and its moving mean (centred). Right: evaluation nll with standard errors,
    and the nll of the source itself where it is known. Several seeds of one configuration are one curve: their mean,
    with its standard error as a band. The format follows the suffix of ``path``: png, svg or pdf.

    Raises:
        UserError: no run was given, the names do not fit, or the suffix is not that of a picture.
    """
    return save(draw_comparison(_drawing(runs, names, title, "step")), Path(path))


def _drawing(runs: Sequence[Run], names: Sequence[str] | None, title: str | None, x: str) -> Drawing:
    if not runs:
        raise UserError("there is no run to plot; give at least one run folder")
    names = labels(runs, names)
    return Drawing(list(runs), names, seed_groups(runs, names), (title or "").strip().removeprefix("- "), x)


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(
            f"{what} {value!r} is unknown{did_you_mean(value, known) or ''}; the choices are {', '.join(known)}"
        )
