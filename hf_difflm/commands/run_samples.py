"""``hf-difflm runs samples``: what a model wrote while it learnt. Needs no torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer


def samples(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run folder, journal or another program's log")],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="only what was written after this prompt; '' for none")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="print long texts to their end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, alone on stdout")] = False,
) -> None:
    """Print the samples of a run: for each prompt the texts from the first step to the last, with their quality."""
    from ..runs import load_run
    from ..runs.derived.text_samples import samples_data, samples_text
    from ..runs.journal.strict_json import dumps, plain

    found = load_run(run)
    if as_json:
        print(dumps(plain(samples_data(found, prompt)), indent=2))
    else:
        print(samples_text(found, shutil.get_terminal_size((140, 24)).columns, prompt, whole))
