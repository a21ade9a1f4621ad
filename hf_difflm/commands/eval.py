"""``hf-difflm eval``: the likelihood of a trained model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .flags import pick_fields, typed_flags, with_flags

FIELDS = pick_fields(
    "dataset",
    "dataset_config",
    "text_column",
    "eval_fraction",
    "block_size",
    "max_eval_blocks",
    "num_preprocessing_workers",
    "eval_replicates",
    "eval_seed",
    "per_device_eval_batch_size",
    "bf16",
    "use_cpu",
)


@with_flags(FIELDS.values())
def evaluate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="a run, a checkpoint or a model on the Hub")],
    split: Annotated[str | None, typer.Option(help="split to evaluate on; default: the run's evaluation split")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the numbers as JSON, alone on stdout")] = False,
    **flags: Any,
) -> None:
    """Evaluate a model: nats per token with standard errors, bits per byte, perplexity, accuracy.

    Data and settings are those of the run itself unless a flag says otherwise.
    """
    changes = typed_flags(FIELDS, flags) | ({} if split is None else {"eval_split": split})
    from ..evaluation.report import evaluate_target
    from .quiet import quiet_libraries

    quiet_libraries()
    evaluate_target(target, changes=changes, as_json=as_json)
