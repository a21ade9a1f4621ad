"""``hf-difflm data prepare``: tokenise once, train often."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.options import CONCAT, names_of
from ..experiments.recipe_settings import load_settings
from ..training.declarations.fields import own_fields
from .flags import given_flags, with_flags
from .spelling import Command, Commands, declared_flags

data_app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help="Prepare text for repeated use.")


@data_app.command("prepare", cls=Command)
@with_flags(field for field in own_fields().values() if field.group == "data")
def prepare(
    ctx: typer.Context,
    output_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="where the blocks go")],
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="take the data options of this recipe; flags override it")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the blocks the folder holds")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the counts as JSON, alone on stdout")] = False,
    **flags: Any,
) -> None:
    """Tokenise and pack a data set once; `train --dataset FOLDER` then maps the blocks and waits for nothing.

    With --streaming the data set is read as a stream and never held: memory stays the same whatever its size.
    """
    settings = load_settings(recipe, given_flags(ctx, flags), declared_flags(ctx))
    from ..data import load_tokenizer, prepare_data
    from ..data.prepared_folder import refuse_target, write_prepared
    from ..data.sources.corpora import refuse_missing
    from .quiet import quiet_libraries

    quiet_libraries()
    options = settings.data
    refuse_target(options, output_dir, overwrite=overwrite)
    for name in [*names_of(options.dataset), *([] if options.eval_dataset is None else [options.eval_dataset])]:
        refuse_missing(name)
    tokenizer = load_tokenizer(options.tokenizer)
    data = prepare_data(options, tokenizer, tell=False)
    counts = write_prepared(data, output_dir, options, tokenizer, overwrite=overwrite)
    if as_json:
        print(json.dumps({side: asdict(count) for side, count in counts.items()}, indent=2))
        return
    for side, count in counts.items():
        print(f"{side}: {count.sentence(data.block_size)}")
    for note in [*settings.notes, *data.notes]:
        print(f"note: {note}")
    print(
        f"next: hf-difflm train --dataset {output_dir} --tokenizer {options.tokenizer} --block-size {options.block_size}"
        + ("" if options.packing == CONCAT else f" --packing {options.packing}")
    )
