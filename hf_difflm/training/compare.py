"""Both objectives on the same recipe: the same tokens in the same order, then one table, one picture, one page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ..errors import UserError
from ..runs import Run, compare_runs, load_run, plot_comparison, write_report
from ..runs.pairing import paired_difference
from .options import OBJECTIVES
from .run_folder import changed_settings, default_name, flat_config, holds_run
from .settings import Settings


def compare_objectives(
    load: Callable[[str], Settings], output_dir: Path | None = None, overwrite: bool = False
) -> Path | None:
    """Train each objective, or reuse its finished run; print the table and the samples; write picture and page.

    Args:
        load: gives the settings of one objective.
        output_dir: folder of both runs; ``runs/{recipe}`` by default, so that a second call finds the first one's.
        overwrite: train again.

    Returns:
        The folder; None where Ctrl-C stopped it.

    Raises:
        UserError: bad input, or a run there that was made with other settings.
    """
    settings = {objective: load(objective) for objective in OBJECTIVES}
    first = next(iter(settings.values()))
    folder = output_dir or Path("runs") / default_name(first).removesuffix(f"-{first.training['objective']}")
    # What cannot work is found before anything is trained.
    plans = {objective: _plan(folder / objective, part, overwrite) for objective, part in settings.items()}
    runs = []
    for objective, part in settings.items():
        place = folder / objective
        if plans[objective] == "reuse":
            print(f"{objective}: reusing the finished run in {place} (--overwrite trains again)")
        else:
            from .experiment import train_run

            if plans[objective] == "resume":
                print(f"{objective}: going on with the unfinished run in {place}")
            finished = train_run(part, place, resume=plans[objective] == "resume", overwrite=overwrite)
            if finished.interrupted:
                return None
        runs.append(load_run(place))
    _show(folder, runs)
    return folder


def _plan(place: Path, settings: Settings, overwrite: bool) -> str:
    """ "train", "resume" or "reuse"."""
    if not settings.training["save_log_to_json"]:
        raise UserError("compare reads the run logs, so save_log_to_json cannot be off")
    if settings.training["log_dir"]:
        raise UserError("compare keeps each run log with its run, so --log-dir has no use here; use --output-dir")
    if overwrite or not holds_run(place):
        return "train"
    changed = changed_settings(place, flat_config(settings))
    if changed:
        name, (recorded, wanted) = next(iter(changed.items()))
        raise UserError(
            f"{place} holds a run with {name} = {recorded!r}, not {wanted!r}; give another --output-dir, or --overwrite to "
            "train again"
        )
    return "reuse" if load_run(place).status == "completed" else "resume"


def _show(folder: Path, runs: list[Run]) -> None:
    """The table, the texts, and where everything is."""
    sys.stdout.write(f"\n{compare_runs(runs).to_text()}\n")
    difference = paired_difference(*runs)
    if difference is not None:
        print(difference)
    for run in runs:
        for sample in run.samples[-2:]:
            prompt = f"prompt {sample.prompt!r}" if sample.prompt else "no prompt"
            print(f"\n--- {run.objective}, step {sample.iter}, {prompt}\n{sample.prompt}{sample.text}")
    picture = plot_comparison(runs, folder / "comparison.png")
    page, _ = write_report(runs, folder / "comparison.md", title="Masked diffusion and its autoregressive twin")
    mdlm = next(run for run in runs if run.objective == "mdlm")
    place = folder / "mdlm"
    print(
        f"\nrun logs     {folder}/*/journal.jsonl and {folder}/*/*.json\n"
        f"checkpoints  {folder}/*/checkpoint-*, the best weights in {folder}/*/best\n"
        f"samples      {folder}/*/samples.txt\n"
        f"picture      {picture}\n"
        f"page         {page}\n"
        f"\nnext: hf-difflm generate {place} --prompt {(mdlm.samples[-1].prompt if mdlm.samples else 'The')[:16]!r}\n"
        f"      hf-difflm eval {place} --split test\n"
        f"      hf-difflm train --objective mdlm --dataset YOUR.txt"
    )
