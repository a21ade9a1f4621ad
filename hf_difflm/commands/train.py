"""``hf-difflm train``: one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..experiments.recipe_settings import load_settings, resumed_settings
from ..training.declarations.fields import own_fields
from .flags import given_flags, with_flags
from .help_pages import HelpAll
from .spelling import declared_flags

# What --test sets, where no flag says otherwise.
TEST_RUN = {
    "max_chunks": 5,
    "max_steps": -1,
    "num_train_epochs": 1,
    "viz_interval": 2,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "eval_iters": 2,
    "save_steps": 2,
    "generate_interval": 2,
    "statistics_interval": 2,
    "generation_max_new_tokens": 64,
}


@with_flags(own_fields().values())
def train(
    ctx: typer.Context,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="recipe to start from; flags override it")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="folder of the run; default: a new one under runs/")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the run in the output folder, by its recorded settings")
    ] = False,
    start_or_resume: Annotated[
        bool,
        typer.Option(
            "--start-or-resume",
            help="start a run where the output folder holds none, else go on with it: for jobs that are run again",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="delete the run that the output folder holds and train again")
    ] = False,
    sanity_check: Annotated[
        bool, typer.Option("--sanity-check", help="check device, data, model and one step, then stop")
    ] = False,
    test: Annotated[
        bool,
        typer.Option(
            "--test", help="try everything out: 5 chunks of data, a dashboard every 2 steps, all that can be logged"
        ),
    ] = False,
    help_all: HelpAll = False,
    **flags: Any,
) -> None:
    """Train one model: masked diffusion (--objective mdlm, or atat with adaptive masks) or autoregressive (ar).

    Takes every flag of transformers' TrainingArguments besides those below; --help-all lists them.
    """
    given, declared = given_flags(ctx, flags), declared_flags(ctx)
    if start_or_resume:
        resume, overwrite = _way_on(output_dir, resume=resume, overwrite=overwrite, sanity_check=sanity_check)
    if test:
        given = {**TEST_RUN, **given}
    if resume and recipe is None and output_dir is not None:
        from ..experiments.run_folder import keeps_log, recorded_settings

        recorded = recorded_settings(output_dir) if keeps_log(output_dir) or not given else {}
        settings = resumed_settings(recorded, given, declared)
    else:
        settings = load_settings(recipe, given, declared)
    from ..experiments.one_run import INTERRUPTED, train_run
    from .quiet import quiet_libraries

    quiet_libraries()
    run = train_run(settings, output_dir=output_dir, resume=resume, overwrite=overwrite, sanity_check=sanity_check)
    if run.interrupted:
        print(f"go on with: hf-difflm train --output-dir {run.folder} --resume", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)


def _way_on(output_dir: Path | None, **others: bool) -> tuple[bool, bool]:
    """Return what ``--resume`` and ``--overwrite`` are under ``--start-or-resume``.

    A job that was killed before the first record of its log was whole has left nothing to go on with, and starts anew.

    Raises:
        UserError: there is no output folder to look into, or a flag of ``others`` says the contrary.
    """
    if output_dir is None:
        raise UserError("--start-or-resume needs --output-dir, the folder that the run starts in and goes on in")
    for name in [name for name, on in others.items() if on]:
        flag = f"--{name.replace('_', '-')}"
        raise UserError(f"--start-or-resume and {flag} exclude each other; give one of them")
    from ..experiments.run_folder import has_begun, holds_run

    begun = has_begun(output_dir)
    return begun, holds_run(output_dir) and not begun
