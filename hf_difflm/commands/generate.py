"""``hf-difflm generate``: text from a trained model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..evaluation.line_files import read_lines
from ..evaluation.options import GenerationOptions
from ..training.fields import fields_of
from .flags import pick_fields, typed_flags, with_flags


@dataclass
class SampleOptions:
    """Flags of the command alone."""

    num_samples: int = field(default=1, metadata={"help": "samples of each prompt", "min": 1})


FIELDS = fields_of(SampleOptions, "generation") | fields_of(GenerationOptions, "generation") | pick_fields("use_cpu")


@with_flags(FIELDS.values())
def generate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="text to go on from; may be repeated")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UTF-8 file with one prompt on each line")
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
    **flags: Any,
) -> None:
    """Generate text from a model, from scratch or after prompts."""
    values = typed_flags(FIELDS, flags)
    use_cpu = values.pop("use_cpu", False)
    prompts = [*(prompt or []), *(read_lines(prompt_file, "prompt") if prompt_file is not None else [])]
    num_samples = values.pop("num_samples", SampleOptions.num_samples)
    real = read_lines(real_texts, "text") if real_texts is not None else []
    from ..evaluation.samples import QualityRequest, print_samples
    from .quiet import quiet_libraries

    quiet_libraries()
    wanted = quality or reference_model is not None or real_texts is not None
    print_samples(
        target,
        prompts,
        GenerationOptions(**values),
        num_samples,
        use_cpu=use_cpu,
        as_json=as_json,
        quality=QualityRequest(reference_model, real) if wanted else None,
    )
