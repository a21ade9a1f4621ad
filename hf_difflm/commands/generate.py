"""``hf-difflm generate``: text from a trained model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError
from ..training.fields import fields_of
from .flags import pick_fields, typed_flags, with_flags


@dataclass
class GenerationOptions:
    """Flags of generation; None leaves the choice to the model's generation configuration."""

    num_samples: int = field(default=1, metadata={"help": "samples of each prompt", "min": 1})
    max_new_tokens: int | None = field(default=None, metadata={"help": "tokens to generate after the prompt", "min": 1})
    max_denoising_steps: int | None = field(
        default=None, metadata={"help": "most denoising steps; masked diffusion only", "min": 1}
    )
    sampler: str | None = field(
        default=None,
        metadata={"help": "how masks are resolved; masked diffusion only", "choices": ("ddpm", "ddpm_cache")},
    )
    temperature: float | None = field(default=None, metadata={"help": "below 1 sharper, above 1 flatter", "min": 0.0})
    top_k: int | None = field(default=None, metadata={"help": "draw from the k likeliest tokens", "min": 1})
    top_p: float | None = field(
        default=None,
        metadata={"help": "draw from the likeliest tokens of this total probability", "above": 0.0, "max": 1.0},
    )
    seed: int = field(default=0, metadata={"help": "seed of the samples", "min": 0})


FIELDS = fields_of(GenerationOptions, "generation") | pick_fields("use_cpu")


@with_flags(FIELDS.values())
def generate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="text to go on from; may be repeated")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="UTF-8 file with one prompt on each line")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the samples as JSON, alone on stdout")] = False,
    **flags: Any,
) -> None:
    """Generate text from a model, from scratch or after prompts."""
    values = typed_flags(FIELDS, flags)
    use_cpu = values.pop("use_cpu", False)
    prompts = [*(prompt or []), *(_lines(prompt_file) if prompt_file is not None else [])]
    num_samples = values.pop("num_samples")
    from ..evaluation.generation import TextRequest
    from ..evaluation.samples import print_samples
    from .quiet import quiet_libraries

    quiet_libraries()
    print_samples(target, prompts, TextRequest(**values), num_samples, use_cpu=use_cpu, as_json=as_json)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompt file {path} cannot be read as UTF-8 text: {error}") from error
    if not lines:
        raise UserError(f"prompt file {path} is empty: write one prompt on each line")
    return lines
