"""The part of a page that shows how important each token of a text is."""

from __future__ import annotations

from collections.abc import Sequence

from ..dashboard.importance_map import ImportanceMap, importance_maps, scale_of
from ..journal.run import Run
from ..journal.tables import count
from .sections import section
from .self_contained import text

SHADES = 9
"""Classes ``s0`` to ``s8`` of the style sheet: no page has a style of its own in an element."""


def importance_section(runs: Sequence[Run], names: Sequence[str]) -> str:
    """For each run that has them its first and last map, on one scale; empty where no run has one."""
    found = [(name, _first_and_last(run)) for run, name in zip(runs, names, strict=True)]
    found = [(name, maps) for name, maps in found if maps]
    if not found:
        return ""
    scale = scale_of([one for _, maps in found for one in maps])
    parts = [_legend(scale)]
    for name, maps in found:
        title = f"{text(name)}, " if len(runs) > 1 else ""
        parts += [f"<h3>{title}step {count(one.step)}</h3>{_map(one, scale)}" for one in reversed(maps)]
    parts.append('<p class="soft">The same evaluation text at each step; point at a token for its number.</p>')
    return section("importance", "Importance of tokens", *parts)


def _first_and_last(run: Run) -> list[ImportanceMap]:
    maps = importance_maps(run)
    return [maps[0], maps[-1]] if len(maps) > 1 else maps


def _map(found: ImportanceMap, scale: tuple[float, float]) -> str:
    tokens = [
        f"<span>{text(shown)}</span>"
        if value is None
        else f'<span class="{_shade(value, scale)}" title="{value:.3f}">{text(shown)}</span>'
        for shown, value in zip(found.shown, found.values, strict=True)
    ]
    return f'<div class="text map">{"".join(tokens)}</div>'


def _legend(scale: tuple[float, float]) -> str:
    low, high = scale
    cells = "".join(f'<span class="s{shade}">&nbsp;&nbsp;&nbsp;</span>' for shade in range(SHADES))
    return f'<p class="map">importance {low:.1f} <span class="scale">{cells}</span> {high:.1f}</p>'


def _shade(value: float, scale: tuple[float, float]) -> str:
    low, high = scale
    return f"s{min(max(int((value - low) / (high - low) * SHADES), 0), SHADES - 1)}"
