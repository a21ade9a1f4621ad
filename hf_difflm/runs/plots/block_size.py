"""The picture between autoregressive and masked diffusion: nll over the size of the diffusion blocks."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ..comparing.seeds import SeedGroup, mean_and_error
from ..journal.run import Run
from .series import Drawing, NothingToDraw, titled
from .style import Style, finish, legend, new_figure

_KINDS = {"ar": "autoregressive", "bd3lm": "block diffusion", "mdlm": "masked diffusion"}


def block_size_of(run: Run) -> int | None:
    """Tokens that a run writes together: 1 of an autoregressive one, a whole text's of masked diffusion; None: unknown."""
    if run.objective == "ar":
        return 1
    size = run.config.get("diffusion_block_size" if run.objective == "bd3lm" else "block_size")
    return size if isinstance(size, int) and run.objective in _KINDS else None


def draw_block_size(drawing: Drawing) -> Figure:
    """The nll of each configuration's best evaluation over its block size, with one standard error.

    Hollow: a bound. The error of several seeds is over them, of one run that of its evaluation's noise.
    """
    points = []
    for group in drawing.groups:
        size, (nll, error) = block_size_of(group.runs[0]), _nll(group)
        if size is not None and nll is not None:
            points.append((size, nll, error, group.runs[0]))
    points.sort(key=lambda point: point[:2])
    if len({size for size, *_ in points}) < 2:
        raise NothingToDraw("nll over the size of diffusion blocks needs evaluations at two sizes")
    figure, (axes,) = new_figure(width=drawing.width)
    axes.plot([size for size, *_ in points], [nll for _, nll, *_ in points], color="0.75", linewidth=1.2, zorder=1)
    handles: dict[str, Line2D] = {}
    for size, nll, error, run in points:
        style = Style.of(list(_KINDS).index(str(run.objective)))
        filled = style.colour if run.bound == "exact" else "white"
        look: dict[str, Any] = {
            "color": style.colour,
            "marker": style.marker,
            "markerfacecolor": filled,
            "markersize": 8,
        }
        axes.errorbar([size], [nll], yerr=None if error is None else [error], capsize=3, linestyle="none", **look)
        note = "exact" if run.bound == "exact" else "upper bound"
        handles[f"{_KINDS[str(run.objective)]}, {note}"] = Line2D([], [], linestyle="none", **look)
    axes.set_xscale("log", base=2)
    sizes = sorted({size for size, *_ in points})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    finish(axes, "Between autoregressive and masked diffusion", "tokens of a diffusion block", drawing.nll_label)
    legend(figure, list(handles.values()), list(handles))
    return titled(figure, drawing)


def _nll(group: SeedGroup) -> tuple[float | None, float | None]:
    best = [run.best_evaluation for run in group.runs]
    if len(best) == 1:
        return (None, None) if best[0] is None else (best[0].nll, best[0].nll_stderr)
    return mean_and_error(record.nll if record else None for record in best)
