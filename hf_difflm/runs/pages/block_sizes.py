"""The part of a page that shows nll over the size of diffusion blocks: a picture without a script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..comparing.seeds import SeedGroup
from ..journal.run import common_loss_unit
from ..journal.tables import count
from ..plots.size_points import KINDS, SizePoint, compares_sizes, size_points
from .sections import section
from .self_contained import text

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 20, 45
_CAP = 5


def block_sizes_section(groups: Sequence[SeedGroup]) -> str:
    """One point a configuration, hollow where it is a bound, with one standard error; empty where sizes are not compared."""
    if not compares_sizes([run for group in groups for run in group.runs]):
        return ""
    return section("block-sizes", "Block sizes", _picture(size_points(groups)), _NOTE)


_NOTE = (
    '<p class="soft">Best evaluations over the tokens of a diffusion block. Filled: exact; hollow: an upper bound. Bars are '
    "standard errors, of several seeds over them.</p>"
)


def _picture(points: Sequence[SizePoint]) -> str:
    low = min(point.nll - (point.error or 0) for point in points)
    high = max(point.nll + (point.error or 0) for point in points)
    room = 0.08 * (high - low) or 0.1
    low, high = low - room, high + room
    first, last = (math.log2(points[place].size) for place in (0, -1))

    def x(size: int) -> float:
        return _LEFT + (math.log2(size) - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(nll: float) -> float:
        return _TOP + (high - nll) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_line(_LEFT, y(at), _WIDTH - _RIGHT, y(at), "rule") for at in _ticks(low, high)]
    parts += [_words(_LEFT - 8, y(at) + 4, f"{at:g}", "end") for at in _ticks(low, high)]
    parts += [
        _words(x(size), _HEIGHT - _BOTTOM + 18, count(size), "middle") for size in sorted({p.size for p in points})
    ]
    parts.append(_words((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "tokens of a diffusion block", "middle"))
    unit = common_loss_unit([point.run for point in points])
    parts.append(_words(4, 12, f"nll ({unit})" if unit else "loss", "start"))
    path = " ".join(f"{x(point.size):.1f},{y(point.nll):.1f}" for point in points)
    parts.append(f'<polyline class="way" points="{path}"/>')
    parts += [_point(point, x(point.size), y) for point in points]
    return (
        f'<svg class="sizes" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="nll over the size of diffusion blocks">'
        f"{''.join(parts)}</svg>"
    )


def _point(point: SizePoint, x: float, y: Callable[[float], float]) -> str:
    drawn = []
    if point.error:
        below, above = y(point.nll - point.error), y(point.nll + point.error)
        drawn = [_line(x, below, x, above, "bar")]
        drawn += [_line(x - _CAP, end, x + _CAP, end, "bar") for end in (below, above)]
    error = "" if point.error is None else f" ± {point.error:.4f}"
    title = f"<title>{text(f'{point.kind}, {count(point.size)} tokens: {point.nll:.4f}{error}')}</title>"
    filled = "exact" if point.run.bound == "exact" else "hollow"
    drawn.append(f'<circle class="{filled}" cx="{x:.1f}" cy="{y(point.nll):.1f}" r="5">{title}</circle>')
    return f'<g class="k{list(KINDS).index(str(point.run.objective))}">{"".join(drawn)}</g>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 6)
    return [round(place * step, 10) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _words(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'
