"""Two or more objectives on the same recipe: the same tokens in the same order, then one table, one picture, one page."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..evaluation.likelihood.exact_options import EXACT_BLOCKS, ExactOrder
from ..objectives.names import DIFFUSION, TWINS
from ..runs import Run, compare_runs, load_run, plot_comparison, write_html_report, write_report
from ..runs.comparing.table import SAMPLING
from ..runs.comparing.twin import AR
from ..runs.journal.measurements import last_measurements
from ..runs.pages.markdown import BLOCK_SIZE
from .recipe_settings import Settings
from .run_folder import default_name
from .several_runs import finish_runs


def compare_objectives(
    load: Callable[[str, int | None], Settings],
    sides: Sequence[str] = TWINS,
    output_dir: Path | None = None,
    overwrite: bool = False,
    seeds: Sequence[int] = (),
    orders: Sequence[ExactOrder] = (),
    exact_blocks: int = EXACT_BLOCKS,
) -> Path | None:
    """Train each objective, or reuse its finished run; print the table and the samples; write picture and pages.

    Args:
        load: gives the settings of one side, with a seed of its own where one is given.
        sides: their names: objectives, those of block diffusion with the size of its blocks, ``bd3lm-16``.
        output_dir: folder of the runs; ``runs/{recipe}`` by default, so that a second call finds the first one's.
        overwrite: train again.
        seeds: train each side once with each of these; by default once, with the seed of its settings.
        orders: of revealing, of each of which the exact likelihood of each masked diffusion model is told beside its bound.
        exact_blocks: the first so many evaluation blocks are scored for that.

    Returns:
        The folder; None where Ctrl-C stopped it.

    Raises:
        UserError: bad input, or a run there that was made with other settings.
    """
    runs = {
        side if seed is None else f"{side}-seed{seed}": load(side, seed)
        for side in sides
        for seed in (seeds or (None,))
    }
    folder = output_dir or Path("runs") / default_name(first := next(iter(runs.values()))).removesuffix(
        f"-{first.training['objective']}"
    )
    if not finish_runs(folder, runs, overwrite=overwrite, command="compare"):
        return None
    if int(os.environ.get("RANK", "0")) == 0:
        if orders:
            from ..evaluation.report import exact_numbers_of

            for name in runs:
                if load_run(folder / name).objective in DIFFUSION:
                    exact_numbers_of(str(folder / name), orders, exact_blocks)
        if any(load_run(folder / name).objective == "bd3lm" for name in runs):
            _time_writing([folder / name for name in runs], next(iter(runs.values())))
        _show(folder, {name: load_run(folder / name) for name in runs})
    return folder


def _time_writing(places: Sequence[Path], settings: Settings) -> None:
    """Record how fast the runs write, where one of them has not been timed or has none to be timed with."""
    if all((place / "best").is_dir() for place in places) and not all(
        SAMPLING in last_measurements(load_run(place)) for place in places
    ):
        from ..evaluation.generation.speed import record_writing_speeds

        record_writing_speeds(list(map(str, places)), settings.data.block_size, bool(settings.training.get("use_cpu")))


def _side(run: Run) -> str:
    size = run.config.get("diffusion_block_size") if run.objective == "bd3lm" else None
    return f"{run.objective}" if size is None else f"{run.objective}:{size}"


def _shown(text: str) -> str:
    """The text without the control characters that an untrained model writes and a terminal would obey."""
    return "".join(char if char in "\n\t" or char.isprintable() else "\ufffd" for char in text)


def _show(folder: Path, named: dict[str, Run]) -> None:
    """The table, the texts, and where everything is."""
    runs = list(named.values())
    sys.stdout.write(f"\n{compare_runs(runs).to_text()}\n")
    firsts: dict[tuple[str | None, int | None], Run] = {}
    for run in runs:  # of several seeds the first
        firsts.setdefault((run.objective, run.config.get("diffusion_block_size")), run)
    for run in firsts.values():
        for sample in run.samples[-2:]:
            prompt = f"prompt {sample.prompt!r}" if sample.prompt else "no prompt"
            print(f"\n--- {_side(run)}, step {sample.iter}, {prompt}\n{_shown(sample.prompt + sample.text)}")
    command = shlex.join(["hf-difflm", *sys.argv[1:]])
    title = (
        "Masked diffusion and its autoregressive twin" if {*TWINS} == {run.objective for run in runs} else "Objectives"
    )
    pictures = [plot_comparison(runs, folder / "comparison.png")]
    page, *of_page = write_report(runs, folder / "comparison.md", title=title, command=command)
    pictures += [path for path in of_page if path.stem.endswith(BLOCK_SIZE)]
    interactive = write_html_report(runs, folder / "comparison.html", title=title, command=command)
    first, run = next(((name, run) for name, run in named.items() if run.objective != AR), next(iter(named.items())))
    prompt = (run.samples[-1].prompt if run.samples else "The")[:16]
    print(
        f"\nrun logs     {folder}/*/journal.jsonl and {folder}/*/*.json\n"
        f"checkpoints  {folder}/*/checkpoint-*, the best weights in {folder}/*/best\n"
        f"samples      {folder}/*/samples.txt\n"
        f"pictures     {', '.join(map(str, pictures))}\n"
        f"pages        {page} and {interactive}\n"
        f"\nnext: hf-difflm generate {folder / first} --prompt {prompt!r}\n"
        f"      hf-difflm eval {folder / first}\n"
        f"      hf-difflm train --objective mdlm --dataset YOUR.txt"
    )
