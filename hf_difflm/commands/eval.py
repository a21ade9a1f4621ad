"""``hf-difflm eval``: the likelihood of a trained model, or the quality of its texts against their cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.options import TextOptions
from ..errors import UserError
from ..evaluation.generation.options import GenerationOptions
from ..evaluation.harness.options import HarnessOptions
from ..evaluation.likelihood.exact_options import ExactOptions, ExactOrder, read_orders
from ..evaluation.likelihood.zero_shot_options import ZeroShotOptions, evaluation_set_names
from ..evaluation.precision import PrecisionOptions
from ..evaluation.protocols.options import ProtocolOptions
from ..evaluation.quality.sampler_grid import read_samplers
from ..training.declarations.fields import fields_of
from .flags import pick_fields, typed_flags, with_flags
from .several_values import whole_numbers


@dataclass
class GridOptions:
    """Flags of ``--generation`` that are no option of generating."""

    samplers: str | None = field(
        default=None,
        metadata={
            "help": "samplers to try, with parameters where wanted: ddpm_cache,remdm:eta=0.1; default: "
            "ddpm_cache,remdm,low_confidence,entropy_bounded"
        },
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
    output: str | None = field(
        default=None, metadata={"help": "markdown page to write: the table, and the picture beside it"}
    )


LIKELIHOOD = pick_fields(
    "eval_replicates",
    "target_stderr",
    "max_eval_replicates",
    "eval_pairs",
    "eval_seed",
    "per_device_eval_batch_size",
    "bf16",
) | fields_of(ZeroShotOptions, "zero_shot")
PRECISION = fields_of(PrecisionOptions, "training")
LIKELIHOOD |= PRECISION
SHARED = pick_fields(
    "dataset",
    "dataset_config",
    "text_column",
    "eval_fraction",
    "block_size",
    "packing",
    "max_eval_blocks",
    "num_preprocessing_workers",
    "use_cpu",
    "revision",
)
EXACT = fields_of(ExactOptions, "exact")
PROTOCOL = fields_of(ProtocolOptions, "protocol")
HARNESS = fields_of(HarnessOptions, "harness")
TEXT = fields_of(TextOptions, "zero_shot")
WITH_TASKS = (
    "per_device_eval_batch_size",
    "eval_seed",
    "bf16",
    *PRECISION,
    "block_size",
    "use_cpu",
    "revision",
    *TEXT,
)
_SETS = {"help": f"{SHARED['dataset'].metadata['help']}; or an evaluation set: {', '.join(evaluation_set_names())}"}
SHARED["dataset"] = replace(SHARED["dataset"], metadata={**SHARED["dataset"].metadata, **_SETS}, default=None)
GRID = fields_of(GridOptions, "generation")
# Samplers and steps are what is varied, and their parameters differ.
OPTIONS = {
    name: option
    for name, option in fields_of(GenerationOptions, "generation").items()
    if name not in ("sampler", "sampler_config", "importance_weight", "max_denoising_steps", "infill", "guidance_scale")
}
FIELDS = SHARED | LIKELIHOOD | EXACT | PROTOCOL | TEXT | HARNESS | GRID | OPTIONS
_OTHER_LAW = "exact likelihoods are of the sampler at temperature 1, without truncation, guidance and penalties"


@with_flags(FIELDS.values())
def evaluate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    split: Annotated[str | None, typer.Option(help="split to evaluate on; default: the run's evaluation split")] = None,
    generation: Annotated[
        bool,
        typer.Option("--generation", help="not the likelihood, but the quality of generated texts against their cost"),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="also the exact likelihood of deterministic orders of revealing, beside the bound"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the numbers as JSON, alone on stdout")] = False,
    **flags: Any,
) -> None:
    """Evaluate a model: nats per token with standard errors, bits per byte, perplexity, accuracy.

    Data and settings are those of the run itself unless a flag says otherwise. With --generation: samplers and numbers
    of denoising steps, each with the perplexity of its texts under the autoregressive twin, their entropy and variety,
    forwards and time, as a table and a picture. With --protocol: the likelihood as LLaDA or Dream computes its own, beside
    the bound, and by how much and why they differ. With --tasks: tasks of lm-evaluation-harness, results in its own format.
    """
    values = typed_flags(FIELDS, flags)
    if not exact and (given := [name for name in values if name in EXACT]):
        raise UserError(f"flag {_flag(given[0])} is for exact likelihoods; add --exact, or leave it out")
    protocol = _protocol(values, generation)
    if any(name in HARNESS for name in values):
        if exact:
            raise UserError("--exact and --tasks exclude each other; give one of them")
        _evaluate_tasks(target, values, split, generation, as_json)
        return
    orders = _orders(values, generation) if exact else []
    changes = {name: value for name, value in values.items() if name in SHARED | LIKELIHOOD | TEXT}
    if split is not None:
        changes["eval_split"] = split
    if (
        generation
        and not values.get("mauve")
        and (given := [name for name in changes if name not in ("use_cpu", "revision")])
    ):
        raise UserError(f"flag {_flag(given[0])} is for the likelihood and for --mauve; leave it out, or --generation")
    _refuse_others(values, LIKELIHOOD | TEXT if generation else GRID | OPTIONS, generation)
    if generation:
        _evaluate_generation(target, values, changes, as_json)
        return
    from .quiet import quiet_libraries

    if protocol is not None:
        from ..evaluation.protocols.report import evaluate_protocol

        quiet_libraries()
        evaluate_protocol(target, changes, protocol, as_json, orders, values.get("exact_budget"))
        return
    from ..evaluation.report import evaluate_target

    quiet_libraries()
    evaluate_target(target, changes, as_json, orders, values.get("exact_budget"))


def _protocol(values: dict[str, Any], generation: bool) -> ProtocolOptions | None:
    """What --protocol asks for; None without it."""
    given = {name: value for name, value in values.items() if name in PROTOCOL}
    if "protocol" not in given:
        if given:
            raise UserError(f"flag {_flag(next(iter(given)))} is for --protocol; add it, or leave this out")
        return None
    if generation or any(name in HARNESS for name in values):
        raise UserError(
            f"--protocol and {'--generation' if generation else '--tasks'} exclude each other; give one of them"
        )
    options = ProtocolOptions(**given)
    options.check()
    return options


def _orders(values: dict[str, Any], generation: bool) -> list[ExactOrder]:
    """The orders that --exact is about; what would make it the likelihood of another model is refused."""
    if generation:
        raise UserError("--exact and --generation exclude each other; give one of them")
    for name in [name for name in values if name in OPTIONS and name != "block_length"]:
        raise UserError(f"flag {_flag(name)} has no use with --exact: {_OTHER_LAW}; leave it out")
    given = {name: value for name, value in values.items() if name in EXACT}
    return read_orders(ExactOptions(**given), values.pop("block_length", None))


def _evaluate_tasks(target: str, values: dict[str, Any], split: str | None, generation: bool, as_json: bool) -> None:
    options = HarnessOptions(**{name: value for name, value in values.items() if name in HARNESS})
    if not options.tasks:
        given = next(name for name in values if name in HARNESS)
        raise UserError(
            f"flag {_flag(given)} is for tasks of lm-evaluation-harness; name some with --tasks, or leave it out"
        )
    others = [_flag(name) for name in values if name not in (*HARNESS, *WITH_TASKS)]
    if others := others + ["--split"] * (split is not None) + ["--generation"] * generation:
        raise UserError(f"flag {others[0]} has no use with --tasks, which bring their own data; leave one of them out")
    from ..evaluation.harness.tasks import evaluate_tasks
    from .quiet import quiet_libraries

    quiet_libraries()
    evaluate_tasks(target, options, {name: value for name, value in values.items() if name in WITH_TASKS}, as_json)


def _refuse_others(values: dict[str, Any], others: dict[str, Any], generation: bool) -> None:
    for name in values:
        if name in others:
            if generation:
                raise UserError(f"flag {_flag(name)} is for the likelihood; leave it out, or --generation")
            raise UserError(f"flag {_flag(name)} is for generated texts; add --generation, or leave it out")


def _page(output: str | None) -> Path | None:
    if output is not None and Path(output).suffix.lower() != ".md":
        raise UserError(f"--output {output} does not end in .md: the page is markdown")
    return None if output is None else Path(output)


def _flag(name: str) -> str:
    return "--split" if name == "eval_split" else f"--{name.replace('_', '-')}"


def _evaluate_generation(target: str, values: dict[str, Any], changes: dict[str, Any], as_json: bool) -> None:
    grid = GridOptions(**{name: value for name, value in values.items() if name in GRID})
    samplers = None if grid.samplers is None else read_samplers(grid.samplers)
    steps = None if grid.steps is None else whole_numbers("--steps", grid.steps)
    if steps is not None and 0 in steps:
        raise UserError("--steps must be positive integers, got 0")
    if grid.markdown and as_json:
        raise UserError("--json and --markdown exclude each other; give one of them")
    from ..evaluation.quality import generation_report as report
    from .quiet import quiet_libraries

    quiet_libraries()
    given = {
        "samplers": samplers,
        "steps": steps,
        "samples": grid.num_samples,
        "batch_size": grid.batch_size,
        "plot": None if grid.plot is None else Path(grid.plot),
        "page": _page(grid.output),
    }
    request = report.GridRequest(
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        reference_model=grid.reference_model,
        mauve=grid.mauve,
        form="json" if as_json else "markdown" if grid.markdown else "text",
    )
    options = GenerationOptions(**{name: value for name, value in values.items() if name in OPTIONS})
    report.evaluate_generation(target, request, options, changes)
