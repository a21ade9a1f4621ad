"""``hf-difflm convert``: a masked diffusion model from a model that exists."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="a causal LM, a BERT-like masked LM, or a released MDLM, LLaDA, Dream, SDAR or A2D model: a run, a "
            "checkpoint, a model folder or OWNER/NAME on the Hub",
        ),
    ],
    output_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="where the model goes")],
    mask_token: Annotated[
        str | None,
        typer.Option(
            help="what hides a token: a new token or a reserved special one; default: the tokenizer's, else [MASK]"
        ),
    ] = None,
    shift: Annotated[
        bool | None,
        typer.Option(
            "--shift/--no-shift",
            help="predict a token from the position before it; default: as the source does (a causal LM: yes)",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="tokenizer; default: the source's own")] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of the model on the Hub")] = None,
    allow_causal_layers: Annotated[
        bool,
        typer.Option("--allow-causal-layers", help="convert though some layers read back only, as those of hybrids do"),
    ] = False,
    diffusion_block_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="tokens of a block of block diffusion; 1 is the causal LM itself; default: none, masked diffusion",
            show_default=False,
        ),
    ] = None,
    no_tokenizer: Annotated[
        bool, typer.Option("--no-tokenizer", help="write no tokenizer, of a released model or with --to: ids only")
    ] = False,
    mask_token_id: Annotated[
        int | None,
        typer.Option(
            min=0, help="what hides a token, of a released model whose folder does not say", show_default=False
        ),
    ] = None,
    released_as: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="open-dllm|diffullama",
            help="what SOURCE is, where its folder is that of a causal LM: its mask token is kept",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="llada|dream|sdar|gguf",
            help="the way back: write a masked diffusion model as that project's own loader, or llama.cpp, reads it",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON, alone on stdout")] = False,
) -> None:
    """Make a masked diffusion model of a language model that exists; `train --init-from FOLDER` goes on with it.

    Weights are kept; a causal LM looks both ways afterwards and gets a mask token, and still predicts the next one. That
    the logits are the source's is checked. Diffusion language models that others released (LLaDA, Dream, SDAR, ...) keep
    their shift, blocks and mask; --to is the way back. Only safetensors are read, and no code.
    """
    from ..errors import UserError
    from ..hub.conversion.any_model import convert as convert_model
    from ..hub.conversion.released.backwards import give_back
    from .quiet import quiet_libraries

    quiet_libraries()
    if to is not None:
        given_too = any((mask_token, tokenizer, diffusion_block_size, allow_causal_layers, released_as))
        if given_too or shift is not None or mask_token_id is not None:
            raise UserError(
                "--to writes a masked diffusion model as it is; leave out all other options but --revision and --no-tokenizer"
            )
        with contextlib.redirect_stdout(sys.stderr):
            given = give_back(source, output_dir, to, revision, no_tokenizer=no_tokenizer)
        if as_json:
            print(json.dumps({**asdict(given), "folder": str(given.folder)}, indent=2))
        else:
            print(f"{given.format}: {given.parameters:,} parameters, as {given.architecture} reads them")
        return
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed, where it is installed, greets on stdout
        made = convert_model(
            source,
            output_dir,
            mask_token=mask_token,
            shift=shift,
            tokenizer=tokenizer,
            revision=revision,
            allow_causal_layers=allow_causal_layers,
            diffusion_block_size=diffusion_block_size,
            no_tokenizer=no_tokenizer,
            mask_token_id=mask_token_id,
            released_as=released_as,
        )
    if as_json:
        print(json.dumps({**asdict(made), "folder": str(made.folder)}, indent=2))
        return
    grown = f", {made.new_rows} new rows in the embeddings" if made.new_rows else ""
    mask = f"token {made.mask_token!r}" if made.mask_token is not None else f"id {made.mask_token_id}, no tokenizer"
    print(f"{made.kind} {made.model_type}: {made.parameters:,} parameters; mask {mask}{grown}")
    if made.difference is not None:
        print(f"logits: the source's, to {made.difference:.0e} of the largest")
    print(f"reads {made.reads}")
    print(f"a token is predicted from {'the position before it' if made.shift_logits else 'its own position'}")
    if made.diffusion_block_size is not None:
        print(f"diffusion blocks of {made.diffusion_block_size} tokens")
    if made.sampled_by is not None:
        print(f"published with: generate {made.sampled_by}; without, our own sampler fills every mask")
    if made.mask_token is None:
        print(f"next: MaskedDiffusionForMaskedLM.from_pretrained({str(made.folder)!r}) in Python, which takes ids")
        return
    objective = "mdlm" if made.diffusion_block_size is None else "bd3lm"
    print(f"next: hf-difflm train --objective {objective} --init-from {made.folder} --dataset ...")
