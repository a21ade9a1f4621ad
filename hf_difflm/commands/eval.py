"""``hf-difflm eval``: the likelihood of a trained model, or the quality of its texts against their cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError, did_you_mean
from ..evaluation.options import GenerationOptions
from ..models.masked_diffusion.sampler_names import SAMPLERS
from ..training.fields import fields_of
from .flags import pick_fields, typed_flags, with_flags
from .several_values import whole_numbers


@dataclass
class GridOptions:
    """Flags of ``--generation`` that are no option of generating."""

    samplers: list[str] | None = field(
        default=None,
        metadata={"help": "samplers to try; default: ddpm_cache,remdm,low_confidence,entropy_bounded"},
    )
    steps: str | None = field(default=None, metadata={"help": "numbers of denoising steps to try; default: 8,32,128"})
    num_samples: int | None = field(
        default=None, metadata={"help": "texts for each sampler and number of steps; default: 16", "min": 1}
    )
    batch_size: int | None = field(default=None, metadata={"help": "texts generated at once; default: 16", "min": 1})
    reference_model: str | None = field(
        default=None,
        metadata={"help": "causal LM whose perplexity of the texts is told; default: the run ar in the same folder"},
    )
    mauve: bool = field(default=False, metadata={"help": "compare with the evaluation data of the run by MAUVE too"})
    plot: str | None = field(
        default=None, metadata={"help": "picture to draw; default: generation-pareto.png in the folder of the run"}
    )
    markdown: bool = field(default=False, metadata={"help": "print the table as markdown"})


LIKELIHOOD = pick_fields("eval_replicates", "eval_seed", "per_device_eval_batch_size", "bf16")
SHARED = pick_fields(
    "dataset",
    "dataset_config",
    "text_column",
    "eval_fraction",
    "block_size",
    "max_eval_blocks",
    "num_preprocessing_workers",
    "use_cpu",
)
GRID = fields_of(GridOptions, "generation")
# Samplers and steps are what is varied, and their parameters differ.
OPTIONS = {
    name: option
    for name, option in fields_of(GenerationOptions, "generation").items()
    if name not in ("sampler", "sampler_config", "max_denoising_steps", "infill", "guidance_scale")
}
FIELDS = SHARED | LIKELIHOOD | GRID | OPTIONS


@with_flags(FIELDS.values())
def evaluate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    split: Annotated[str | None, typer.Option(help="split to evaluate on; default: the run's evaluation split")] = None,
    generation: Annotated[
        bool,
        typer.Option("--generation", help="not the likelihood, but the quality of generated texts against their cost"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the numbers as JSON, alone on stdout")] = False,
    **flags: Any,
) -> None:
    """Evaluate a model: nats per token with standard errors, bits per byte, perplexity, accuracy.

    Data and settings are those of the run itself unless a flag says otherwise. With --generation: samplers and numbers
    of denoising steps, each with the perplexity of its texts under the autoregressive twin, their entropy and variety,
    forwards and time, as a table and a picture.
    """
    values = typed_flags(FIELDS, flags)
    changes = {name: value for name, value in values.items() if name in SHARED | LIKELIHOOD}
    if split is not None:
        changes["eval_split"] = split
    if generation and not values.get("mauve") and (given := [name for name in changes if name != "use_cpu"]):
        raise UserError(f"flag {_flag(given[0])} is for the likelihood and for --mauve; leave it out, or --generation")
    _refuse_others(values, LIKELIHOOD if generation else GRID | OPTIONS, generation)
    if generation:
        _evaluate_generation(target, values, changes, as_json)
        return
    from ..evaluation.report import evaluate_target
    from .quiet import quiet_libraries

    quiet_libraries()
    evaluate_target(target, changes=changes, as_json=as_json)


def _refuse_others(values: dict[str, Any], others: dict[str, Any], generation: bool) -> None:
    for name in values:
        if name in others:
            if generation:
                raise UserError(f"flag {_flag(name)} is for the likelihood; leave it out, or --generation")
            raise UserError(f"flag {_flag(name)} is for generated texts; add --generation, or leave it out")


def _flag(name: str) -> str:
    return "--split" if name == "eval_split" else f"--{name.replace('_', '-')}"


def _evaluate_generation(target: str, values: dict[str, Any], changes: dict[str, Any], as_json: bool) -> None:
    grid = GridOptions(**{name: value for name, value in values.items() if name in GRID})
    samplers = grid.samplers
    if samplers is not None:
        _check_samplers(samplers)
    steps = None if grid.steps is None else whole_numbers("--steps", grid.steps)
    if steps is not None and 0 in steps:
        raise UserError("--steps must be positive integers, got 0")
    if grid.markdown and as_json:
        raise UserError("--json and --markdown exclude each other; give one of them")
    from ..evaluation import generation_report as report
    from .quiet import quiet_libraries

    quiet_libraries()
    given = {
        "samplers": samplers,
        "steps": steps,
        "samples": grid.num_samples,
        "batch_size": grid.batch_size,
        "plot": None if grid.plot is None else Path(grid.plot),
    }
    request = report.GridRequest(
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        reference_model=grid.reference_model,
        mauve=grid.mauve,
        form="json" if as_json else "markdown" if grid.markdown else "text",
    )
    options = GenerationOptions(**{name: value for name, value in values.items() if name in OPTIONS})
    report.evaluate_generation(target, request, options, changes)


def _check_samplers(samplers: list[str]) -> None:
    """Raises UserError where one is unknown, is there twice, or there is none."""
    for sampler in samplers:
        if sampler not in SAMPLERS:
            hint = did_you_mean(sampler, SAMPLERS)
            raise UserError(f"--samplers must be of {', '.join(SAMPLERS)}, got {sampler!r}{hint}")
    if not samplers or len(set(samplers)) < len(samplers):
        raise UserError(f"--samplers must be different names with commas between them, got {','.join(samplers)!r}")
