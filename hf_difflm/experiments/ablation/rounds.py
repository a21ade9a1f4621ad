"""An ablation in rounds: first the rate of each variant, then seeds, then the best ones elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ...runs.comparing.ablation import AblationTable
from .grid import AblationGrid, Round, Variant

RunGrid = Callable[[AblationGrid], AblationTable | None]


def run_rounds(grid: AblationGrid, run: RunGrid) -> list[tuple[Round, AblationTable]] | None:
    """Run each round, and choose from its numbers what the next one trains.

    Args:
        grid: with its rounds.
        run: trains and reads one round, a grid of its own whose name is the round's.

    Returns:
        The rounds that could be chosen, with their tables; the last one may be unfinished. None where Ctrl-C stopped one.
    """
    variants, done = grid.variants, list[tuple[Round, AblationTable]]()
    for part in grid.rounds:
        if done:
            before, numbers = done[-1]
            chosen = _chosen(variants, before, numbers, grid.baseline, part.best)
            if chosen is None:  # of what is finished so far nothing follows
                break
            variants = chosen
        table = run(_grid_of(grid, part, variants))
        if table is None:
            return None
        done.append((part, table))
    return done


def _grid_of(grid: AblationGrid, part: Round, variants: tuple[Variant, ...]) -> AblationGrid:
    tried = tuple(one for variant in variants for one in (variant.tuned() if part.tune else [variant]))
    baseline = next(variant for variant in variants if variant.name == grid.baseline)
    return replace(
        grid,
        name=part.name,
        settings={**grid.settings, **part.settings},
        seeds=part.seeds,
        variants=tried,
        baseline=baseline.tuned()[0].name if part.tune else baseline.name,
        rounds=(),
    )


def _chosen(
    variants: tuple[Variant, ...], part: Round, table: AblationTable, baseline: str, best: int | None
) -> tuple[Variant, ...] | None:
    """Each variant as it was best, in the old order; ``best`` of them and the baseline; None where one is not finished."""
    nll = {entry.name: _mean(entry.nll()) for entry in table.entries}
    if None in nll.values():
        return None
    as_best, of_best = [], {}
    for variant in variants:
        tried = variant.tuned() if part.tune else [variant]
        first = min(tried, key=lambda one: nll[one.name] or 0.0)
        as_best.append(replace(first, name=variant.name))
        of_best[variant.name] = nll[first.name] or 0.0
    if best is None:
        return tuple(as_best)
    others: Iterable[str] = sorted((name for name in of_best if name != baseline), key=of_best.__getitem__)
    kept = {baseline, *list(others)[:best]}
    return tuple(variant for variant in as_best if variant.name in kept)


def _mean(nll: Mapping[int, float]) -> float | None:
    return sum(nll.values()) / len(nll) if nll else None
