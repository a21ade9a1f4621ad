"""``hf-difflm generate``: text from a trained model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.options import TextOptions
from ..errors import UserError
from ..evaluation.generation.line_files import read_lines
from ..evaluation.generation.options import GenerationOptions
from ..evaluation.generation.prompts import STDIN, prompts_of_file, whole_stdin
from ..training.declarations.fields import fields_of
from .flags import pick_fields, typed_flags, with_flags


@dataclass
class SampleOptions:
    """Flags of the command alone."""

    num_samples: int = field(default=1, metadata={"help": "samples of each prompt", "min": 1})
    batch_size: int = field(
        default=8, metadata={"help": "texts generated at once; 1 answers each line of a pipe as it comes", "min": 1}
    )
    prompt_format: str | None = field(
        default=None,
        metadata={
            "help": 'lines of --prompt-file: text, or objects such as {"prompt": "To be"}; default: by the suffix',
            "choices": ("text", "jsonl"),
        },
    )
    watch_seconds: float = field(
        default=0.03, metadata={"help": "--watch shows each step at least so long", "min": 0.0, "max": 60.0}
    )


OWN = fields_of(SampleOptions, "generation")
OPTIONS = fields_of(GenerationOptions, "generation")
TEXT = fields_of(TextOptions, "zero_shot")
FIELDS = OWN | OPTIONS | TEXT | pick_fields("use_cpu", "revision")


@with_flags(FIELDS.values())
def generate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="text to go on from, or to fill the holes of; may be repeated; - is stdin"),
    ] = None,
    prompt_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="UTF-8 file with one prompt on each line; - is stdin")
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="prompts are what the user says, written by the tokenizer's chat template; JSON lines may have messages; "
            "prints the answer alone",
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="show the text in the terminal while it is written, masks and all")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the same as a page, with a slider over the steps")
    ] = None,
    quality: Annotated[
        bool,
        typer.Option("--quality", help="tell the repetition, variety and entropy of each text and of all together"),
    ] = False,
    reference_model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="tell the perplexity under this causal LM too, with the entropy"),
    ] = None,
    real_texts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="compare by MAUVE with the texts of this UTF-8 file, one on each line"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the samples as JSON, alone on stdout")] = False,
    as_jsonl: Annotated[
        bool, typer.Option("--jsonl", help="print each sample as a line of JSON as soon as it is there")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help="JSON has the tokens of each text too")] = False,
    **flags: Any,
) -> None:
    """Generate text from a model: from scratch, after prompts, into the holes of prompts, or as answers (--chat)."""
    values = typed_flags(FIELDS, flags)
    own = SampleOptions(**{name: value for name, value in values.items() if name in OWN})
    options = GenerationOptions(**{name: value for name, value in values.items() if name in OPTIONS})
    prompts = list(prompt or [])
    if as_json and as_jsonl:
        raise UserError("--json and --jsonl exclude each other; give one of them")
    if ids and not (as_json or as_jsonl):
        raise UserError("--ids are shown in JSON alone; add --json or --jsonl")
    if own.prompt_format is not None and prompt_file is None:
        raise UserError("--prompt-format is that of --prompt-file, which is missing; add it")
    if [*prompts, prompt_file].count(STDIN) > 1:
        raise UserError("stdin can be read once, but - is given more than once; leave one of them")
    if chat and not prompts and prompt_file is None:
        raise UserError("--chat answers what a user says, and nothing is said; add --prompt or --prompt-file")
    real = read_lines(real_texts, "text") if real_texts is not None else []
    from_file = None if prompt_file is None else prompts_of_file(prompt_file, own.prompt_format, chat)
    prompts = [whole_stdin() if text == STDIN else text for text in prompts]
    from ..evaluation.quality.samples import (
        JSON,
        JSONL,
        TEXT,
        OutputRequest,
        QualityRequest,
        print_samples,
        prompts_given,
    )
    from .quiet import quiet_libraries

    quiet_libraries()
    wanted = quality or reference_model is not None or real_texts is not None
    print_samples(
        target,
        prompts_given(prompts, from_file),
        options,
        own.num_samples,
        use_cpu=values.get("use_cpu", False),
        revision=values.get("revision"),
        output=OutputRequest(
            form=JSON if as_json else JSONL if as_jsonl else TEXT,
            with_ids=ids,
            watch=watch,
            frame_seconds=own.watch_seconds,
            html=html,
        ),
        batch_size=own.batch_size,
        several=own.num_samples > 1 or prompt_file is not None or len(prompts) > 1,
        quality=QualityRequest(reference_model, real) if wanted else None,
        chat=chat,
        **{name: value for name, value in values.items() if name in TEXT},
    )
