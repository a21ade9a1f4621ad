"""The picture of quality against cost: perplexity and entropy side by side, since either alone misleads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...errors import UserError
from ..comparing.pareto import CAUSAL, GenerationPoint, pareto_front
from .style import FORMATS, Style, finish, label_text, legend, new_figure, save

Value = Callable[[GenerationPoint], float]


def plot_pareto(points: Sequence[GenerationPoint], path: str | Path, *, title: str, reference: str | None) -> Path:
    """Draw perplexity over forwards, perplexity over time, and entropy over forwards; returns the file.

    Each sampler, with its parameters, is a line over its numbers of steps. Points that no other beats are filled.

    Args:
        points: at least one.
        path: picture, its format by the suffix.
        title: of the picture.
        reference: name of the model whose perplexity it is; None: there is none, and entropy alone is drawn.

    Raises:
        UserError: the suffix is not that of a picture, or the file cannot be written.
    """
    panels: list[tuple[str, str, str, Value, Value, bool]] = [
        ("Variety against forwards", "forwards a text", "unigram entropy (nats)", _forwards, _entropy, False),
    ]
    if reference is not None:
        perplexity = f"perplexity under {label_text(reference)}"
        panels = [
            ("Quality against forwards", "forwards a text", perplexity, _forwards, _perplexity, True),
            ("Quality against time", "seconds a text", perplexity, _seconds, _perplexity, True),
            *panels,
        ]
    figure, all_axes = new_figure(len(panels))
    handles: dict[str, Any] = {}
    for axes, (name, x_label, y_label, x, y, log_y) in zip(all_axes, panels, strict=True):
        handles |= _draw(axes, points, x, y)
        finish(axes, name, x_label, y_label)
        _log(axes.xaxis, axes.set_xscale)
        if log_y:
            _log(axes.yaxis, axes.set_yscale)
    legend(figure, list(handles.values()), list(handles))
    figure.suptitle(f"{title}; filled: beaten by none".replace("$", r"\$"), x=0.01, ha="left", fontsize=11)
    return save(figure, Path(path))


def check_picture(path: Path | None) -> None:
    """Find out, before anything is measured, whether a picture can have this name.

    Raises:
        UserError: its suffix is not that of a picture.
    """
    if path is not None and path.suffix.lstrip(".").lower() not in FORMATS:
        raise UserError(f"{str(path)!r} has no suffix of a picture; end it in .png, .svg or .pdf")


def _draw(axes: Axes, points: Sequence[GenerationPoint], x: Value, y: Value) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    front = dict(zip(map(id, points), pareto_front(points), strict=True))
    labels = list(dict.fromkeys(point.label for point in points if point.sampler != CAUSAL))
    for place, label in enumerate(labels):
        style = Style.of(place)
        own = [point for point in points if point.label == label and math.isfinite(y(point))]
        own.sort(key=x)
        if not own:
            continue
        (handles[label_text(label)],) = axes.plot(
            [x(point) for point in own],
            [y(point) for point in own],
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=7,
            markerfacecolor="white",
            linewidth=1.3,
        )
        best = [point for point in own if front[id(point)]]
        axes.plot(
            [x(point) for point in best], [y(point) for point in best], style.marker, color=style.colour, markersize=7
        )
    for point in points:
        if point.sampler == CAUSAL and math.isfinite(y(point)):
            handles[CAUSAL] = axes.plot([x(point)], [y(point)], "*", color="black", markersize=13, linestyle="none")[0]
    return handles


def _log(axis: Any, set_scale: Callable[[str], object]) -> None:
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _forwards(point: GenerationPoint) -> float:
    return point.forwards


def _seconds(point: GenerationPoint) -> float:
    return point.seconds


def _perplexity(point: GenerationPoint) -> float:
    return math.nan if point.reference_perplexity is None else point.reference_perplexity


def _entropy(point: GenerationPoint) -> float:
    own = point.unigram_entropy if point.reference_entropy is None else point.reference_entropy
    return math.nan if own is None else own
