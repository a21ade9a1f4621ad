"""Pictures of runs: every kind by its name, and the one beside the table of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from ...errors import UserError, did_you_mean
from ..comparing.seeds import seed_groups
from ..comparing.table import labels
from ..journal.atomic_files import file_stem
from ..journal.run import Run
from ..reading.load import as_runs
from .axes import AXES, row_positions
from .block_size import draw_block_size
from .evaluation import draw_comparison, draw_milestones, draw_validation
from .gallery import draw_gallery
from .measured import draw_gradients, draw_statistics, draw_throughput
from .metric import draw_metric
from .scalars import named, scalar_names
from .series import Drawing, NothingToDraw
from .style import FORMATS, WIDTHS, fit_to_page, save, without_titles
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
_KNOWN = KINDS | MEASURED_KINDS | {"block_size": draw_block_size}


@dataclass(frozen=True)
class Plots:
    """What was drawn: the files in the order of the kinds, and a sentence for each kind that had nothing to show."""

    paths: list[Path]
    left_out: list[str]


def plot_runs(
    runs: Sequence[Run | str | Path],
    output_dir: str | Path,
    kinds: Sequence[str] = (),
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    picture_format: str = "png",
    x: str = "step",
    metrics: Sequence[str] = (),
    width: float | None = None,
    titles: bool = True,
) -> Plots:
    """Draw runs, one file ``{kind}.{format}`` for each kind and ``{metric}.{format}`` for each metric.

    Args:
        runs: at least one, or the paths of their logs. Several seeds of one configuration are drawn as their mean and its
            standard error, except where each step or its time is shown.
        output_dir: folder of the pictures, made where it is missing.
        kinds: keys of :data:`KINDS`, by default all of them, or none where metrics are named; and of
            :data:`MEASURED_KINDS`; ``block_size`` where it is asked for.
        names: what to call the runs; by default their own names.
        title: stands above each picture.
        picture_format: png, svg or pdf.
        x: key of ``AXES``: step, epoch, tokens, flops or time.
        metrics: names of scalars, of any that a run has logged (:func:`~hf_difflm.runs.plots.scalars.scalar_names`).
        width: of the pictures in inches, letters and lines to suit it, such as 3.25 for a column of a page; by default
            that of a screen.
        titles: whether pictures say what they show; where a caption does, only the panels of several are named.

    Raises:
        UserError: no run was given, a kind, metric, axis or format is unknown, the names or the width do not fit, or there
            is nothing to show.
    """
    for kind in kinds:
        _check("kind of plot", kind, [*_KNOWN])
    _check("x axis", x, list(AXES))
    _check("format", picture_format, FORMATS)
    if width is not None and not WIDTHS[0] <= width <= WIDTHS[1]:
        raise UserError(f"a picture cannot be {width:g} inches wide; give {WIDTHS[0]:g} to {WIDTHS[1]:g}")
    if title and not titles:
        raise UserError(f"a title ({title!r}) and no titles exclude each other; leave one of them out")
    runs = as_runs(runs)
    drawing = replace(_drawing(runs, names, title, x), width=width)
    known = scalar_names(runs) if metrics else []
    for metric in metrics:
        _check("metric", named(metric), known)
    paths: list[Path] = []
    left_out: list[str] = []
    pictures: dict[str, Callable[[Drawing], Figure]] = {
        kind: _KNOWN[kind] for kind in (kinds or (() if metrics else KINDS))
    }
    pictures |= {metric: partial(draw_metric, name=named(metric)) for metric in metrics}
    for name, draw in pictures.items():
        try:
            figure = draw(drawing)
        except NothingToDraw as reason:
            left_out.append(f"{name} was left out: {reason}")
            continue
        if not titles:
            without_titles(figure)
        if width is not None:
            fit_to_page(figure)
        paths.append(save(figure, Path(output_dir) / f"{file_stem(name)}.{picture_format}"))
    if not paths:
        raise UserError(f"there is nothing to plot: {'; '.join(left_out)}")
    return Plots(paths, left_out)


def plot_comparison(
    runs: Sequence[Run | str | Path], path: str | Path, title: str | None = None, names: Sequence[str] | None = None
) -> Path:
    """Draw training loss and evaluation nll over steps, one colour a run, and return the path of the picture.

    Left: every logged training loss (light) and its moving mean (centred). Right: evaluation nll with standard errors,
    and the nll of the source itself where it is known. Several seeds of one configuration are one curve: their mean,
    with its standard error as a band. The format follows the suffix of ``path``: png, svg or pdf.

    Raises:
        UserError: no run was given, the names do not fit, or the suffix is not that of a picture.
    """
    return save(draw_comparison(_drawing(as_runs(runs), names, title, "step")), Path(path))


def plot_block_size(runs: Sequence[Run], path: str | Path, names: Sequence[str] | None = None) -> Path:
    """Draw the nll over the size of diffusion blocks and return the path; see :func:`.block_size.draw_block_size`.

    Raises:
        UserError: no run was given, the names do not fit, or the suffix is not that of a picture.
    """
    return save(draw_block_size(_drawing(runs, names, None, "step")), Path(path))


def plot_gallery(
    runs: Sequence[Run], path: str | Path, scalars: Sequence[str], names: Sequence[str] | None = None
) -> Path:
    """Draw some scalars over steps, a small panel each, and return the path; see :func:`.gallery.draw_gallery`.

    Raises:
        UserError: no run was given, the names do not fit, or the suffix is not that of a picture.
    """
    return save(draw_gallery(_drawing(runs, names, None, "step"), scalars), Path(path))


def _drawing(runs: Sequence[Run], names: Sequence[str] | None, title: str | None, x: str) -> Drawing:
    if not runs:
        raise UserError("there is no run to plot; give at least one run folder")
    names = labels(runs, names)
    return Drawing(
        list(runs), names, seed_groups(runs, names), (title or "").strip().removeprefix("- "), _axis(runs, x)
    )


def _axis(runs: Sequence[Run], x: str) -> str:
    """Epochs in the place of steps where a log counts no steps, but epochs.

    Raises:
        UserError: another of the runs knows its steps alone.
    """
    counting = [run.name for run in runs if run.step_word == "epoch"]
    if x != "step" or not counting:
        return x
    without = [run.name for run in runs if row_positions(run, "epoch") is None]
    if without:
        raise UserError(
            f"{', '.join(counting)} counts epochs and {', '.join(without)} steps alone, so no axis has both; draw each alone"
        )
    return "epoch"


def _check(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(
            f"{what} {value!r} is unknown{did_you_mean(value, known) or ''}; the choices are {', '.join(known)}"
        )
