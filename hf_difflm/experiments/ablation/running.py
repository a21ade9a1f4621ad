"""``hf-difflm ablate``: train what a grid names, draw samples, and write the table from what is finished."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...evaluation.generation.options import GenerationOptions
from ...runs import Run, load_run
from ...runs.comparing.ablation import AblationTable, Entry, is_finished
from ...runs.comparing.verdicts import CONFIDENCE, NOT_RESOLVED
from ...runs.journal.schema import COMPLETED
from ...runs.journal.tables import printable
from ...runs.pages.write_markdown import write_markdown
from ...training.declarations.fields import fields_of
from ...training.declarations.typed_values import typed_value
from ..recipe_settings import Settings
from ..run_folder import keeps_log
from ..several_runs import differing_settings, finish_runs
from .grid import AblationGrid, Round, Variant, slug
from .kept_logs import keep_logs, take_logs
from .rounds import run_rounds

LoadSettings = Callable[[Mapping[str, Any]], Settings]


def run_ablation(
    grid: AblationGrid,
    load: LoadSettings,
    folder: Path,
    *,
    overwrite: bool = False,
    report_only: bool = False,
    page: Path | None = None,
    logs: Path | None = None,
) -> list[AblationTable] | None:
    """Finish every run of the grid, draw its samples, write the page and return its tables.

    Args:
        grid: what to compare.
        load: gives the settings of a run from recipe keys.
        folder: the runs lie in it as ``{variant}-seed{seed}``, in a folder of its round where there are rounds; what is
            finished there is reused.
        overwrite: train again.
        report_only: train nothing; variants with unfinished runs have no numbers.
        page: markdown file; ``ablation.md`` in the folder by default.
        logs: keeps the logs of finished runs, and has those of runs that are not in the folder.

    Returns:
        A table, or one of each round; None where Ctrl-C stopped a run. Without entries where another process writes.

    Raises:
        UserError: bad input, a run there that was made with other settings, nothing finished to report.
    """
    for variant in grid.variants:
        _generation_options(variant)  # a mistake there must not wait until everything is trained
    if grid.rounds and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"the rounds of {grid.name} are chosen by one process from what is finished, but {os.environ['WORLD_SIZE']} were "
            "launched; run it without a launcher"
        )

    def run(part: AblationGrid) -> AblationTable | None:
        within = ("" if part is grid else part.name,)
        place = folder.joinpath(*within)
        if logs is not None and not overwrite:
            take_logs(logs.joinpath(*within), place)
        table = _run_grid(part, load, place, overwrite=overwrite, report_only=report_only)
        if logs is not None and table is not None:
            keep_logs(place, logs.joinpath(*within), [run for entry in table.entries for run in entry.runs.values()])
        return table

    done: Sequence[tuple[Round | None, AblationTable]] | None
    if grid.rounds:
        done = run_rounds(grid, run)
    else:
        whole = run(grid)
        done = None if whole is None else [(None, whole)]
    if done is None or not done[0][1].entries:
        return None if done is None else [table for _, table in done]
    if all(len(entry.missing) == len(entry.runs) for entry in done[0][1].entries):
        raise UserError(
            f"{folder} holds no finished run of this ablation, so there is no number to report; train first"
        )
    _write_page(page or folder / "ablation.md", grid, done)
    return [table for _, table in done]


def _run_grid(
    grid: AblationGrid, load: LoadSettings, folder: Path, *, overwrite: bool, report_only: bool
) -> AblationTable | None:
    settings = {
        grid.run_name(variant, seed): load(_keys(grid, variant, seed))
        for variant in grid.variants
        for seed in grid.seeds
    }
    if not report_only and not finish_runs(folder, settings, overwrite=overwrite, command="ablate"):
        return None
    if int(os.environ.get("RANK", "0")) != 0:
        return AblationTable([], grid.baseline)
    runs = {name: _matching_run(folder / name, part) for name, part in settings.items()}
    return AblationTable([_entry(grid, variant, runs, folder) for variant in grid.variants], grid.baseline)


def _keys(grid: AblationGrid, variant: Variant, seed: int) -> dict[str, Any]:
    values = {**grid.settings, **variant.settings, "seed": seed}
    values.setdefault("experiment_name", grid.run_name(variant, seed))
    return values


def _matching_run(place: Path, settings: Settings) -> Run | None:
    """The finished run in ``place``, if it was made with these very settings."""
    if not keeps_log(place) or differing_settings(place, settings):
        return None
    run = load_run(place)
    return run if run.status == COMPLETED else None


def _entry(grid: AblationGrid, variant: Variant, runs: Mapping[str, Run | None], folder: Path) -> Entry:
    names = {seed: grid.run_name(variant, seed) for seed in grid.seeds}
    entry = Entry(
        variant.name,
        runs={seed: runs[name] for seed, name in names.items()},
        weights=names[grid.seeds[0]],
        generation={},
    )
    if entry.missing or grid.samples == 0:
        return entry
    from ...evaluation.quality.kept_samples import sample_numbers

    reference = _reference(grid, runs, folder)
    numbers = {}
    for seed, name in names.items():
        file = folder / "samples" / f"{slug(variant.name)}-seed{seed}.json"
        numbers[seed] = sample_numbers(
            folder / name, _generation_options(variant), grid.samples, file, reference=reference
        )
    return Entry(entry.name, entry.runs, numbers, entry.weights)


def _reference(grid: AblationGrid, runs: Mapping[str, Run | None], folder: Path) -> Path | None:
    """The run of the reference variant with the first seed, once it is finished."""
    if grid.reference is None:
        return None
    variant = next(variant for variant in grid.variants if variant.name == grid.reference)
    name = grid.run_name(variant, grid.seeds[0])
    return folder / name if is_finished(runs[name]) else None


def _generation_options(variant: Variant) -> Any:
    declared = fields_of(GenerationOptions, "generation")
    try:
        values = {name: typed_value(declared[name], value) for name, value in variant.generation.items()}
    except UserError as error:
        raise UserError(f"in variant {variant.name!r}: {error}") from None
    return GenerationOptions(**values)


def _write_page(page: Path, grid: AblationGrid, done: Sequence[tuple[Round | None, AblationTable]]) -> None:
    command = shlex.join(["hf-difflm", *sys.argv[1:]])
    parts = [printable(grid.description)]
    for part, table in done:
        parts += [table.to_markdown()] if part is None else [f"## {_title(part)}", table.to_markdown()]
    parts += [_explanation(grid, done), f"## What each variant sets\n\n{_variants(grid)}"]
    write_markdown(page, f"Ablation: {printable(grid.name)}", command, parts)


def _title(part: Round) -> str:
    seeds = f"{len(part.seeds)} seed{'s' if len(part.seeds) > 1 else ''}"
    which = "each variant with each rate" if part.tune else "each variant as it was best in the round before"
    if part.best is not None:
        which = f"the {part.best} best of the round before and the baseline"
    said = ", ".join(f"{key} = {value}" for key, value in part.settings.items())
    return printable(f"{part.name}: {which}, {seeds}{f', {said}' if said else ''}")


def _explanation(grid: AblationGrid, done: Sequence[tuple[Round | None, AblationTable]]) -> str:
    seeds = len(grid.seeds)
    on_test = all(table.on_test for _, table in done)
    source = "on the test, of the weights in best/" if on_test else "from the evaluation with the lowest value"
    objectives = {variant.settings.get("objective") for variant in grid.variants} | {grid.settings.get("objective")}
    blocks = "; of block diffusion the bound at its size of blocks" if "bd3lm" in objectives else ""
    over = "seeds" if grid.rounds else f"{seeds} seed{'s' if seeds > 1 else ''}"
    return (
        f"Means over {over}, ± half the {CONFIDENCE:.0%} interval (Student's t over seeds). "
        f"nats/token (P0) is the NELBO of plain masked diffusion on the same denoiser, {source} "
        f"(exact for an autoregressive model{blocks}). difference is to "
        f"`{printable(grid.baseline)}`, paired by seed (unpaired where the logs do not prove that both scored the "
        f"same text); where its interval holds 0 the verdict is {NOT_RESOLVED}; of "
        "two upper bounds (nelbo) the lower one is the better bound. "
        "A variant without all of its runs has no numbers. "
        + (f"Samples: {grid.samples} texts a run from an empty prompt." if grid.samples else "")
    )


def _variants(grid: AblationGrid) -> str:
    shared = ", ".join(f"{key} = {value}" for key, value in grid.settings.items())
    lines = [f"All: recipe `{Path(grid.recipe).stem}`{f', {printable(shared)}' if shared else ''}."]
    for variant in grid.variants:
        said = ", ".join(f"{key} = {value}" for key, value in {**variant.settings, **variant.generation}.items())
        lines.append(f"- {printable(variant.name)}: {printable(said) or 'nothing else'}")
    return "\n".join(lines)
