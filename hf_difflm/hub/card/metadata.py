"""The YAML at the head of a model card: what the Hub files and lists a model by."""

from __future__ import annotations

import math
import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ...data.options import names_of
from ...errors import UserError
from ...runs import Run
from ...runs.comparing.verdicts import BOUND, kind_of
from ...runs.journal.tables import printable
from ...runs.reading.places import relative
from ..repo_names import on_the_hub
from ..source import PushSource
from .past import ancestors, base_on_the_hub

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*", re.ASCII)  # which ones there are, the Hub knows, and says
_METRICS = (
    ("eval_nll", "nats_per_token", "nats per token"),
    ("eval_bpb", "bits_per_byte", "bits per byte"),
    ("eval_ppl", "perplexity", "perplexity"),
)


def check_license(license_id: str | None) -> None:
    """Raise UserError where ``license_id`` cannot be one of the Hub's identifiers of licences."""
    if license_id is not None and _LICENSE.fullmatch(license_id) is None:
        raise UserError(
            f"--license {license_id!r} is no identifier of a licence; give one of the Hub's, such as apache-2.0, mit or "
            "cc-by-4.0"
        )


def card_metadata(
    source: PushSource,
    config: dict[str, Any],
    name: str,
    *,
    license_id: str | None = None,
    adapted: str | None = None,
) -> ModelCardData:
    """Return library, task, tags, data sets, base model and, where exactly these weights were evaluated, the results.

    Args:
        source: what is pushed.
        config: ``config.json`` of the model.
        name: of the repository, without its owner.
        license_id: an identifier that the Hub knows; None: the card names no licence.
        adapted: the network, ``OWNER/NAME``, that an adapter is merged into.
    """
    run = source.run
    is_denoiser = config["model_type"] == "masked_diffusion"
    tags = ["masked-diffusion", "diffusion-language-model"] if is_denoiser else ["causal-lm"]
    datasets = [] if run is None else names_of(str(run.config.get("dataset")))
    base = adapted or base_on_the_hub(ancestors(run, config))
    return ModelCardData(
        license=license_id,
        library_name="transformers",
        pipeline_tag="fill-mask" if is_denoiser else "text-generation",
        tags=[*tags, "hf_difflm"],
        datasets=[dataset for dataset in datasets if on_the_hub(dataset)] or None,
        base_model=base if base is not None and on_the_hub(base) else None,
        model_name=name,
        eval_results=_results(source, run, "fill-mask" if is_denoiser else "text-generation")
        if run is not None
        else None,
    )


def _results(source: PushSource, run: Run, task: str) -> list[EvalResult] | None:
    if source.evaluation is None:
        return None
    evaluation, split = source.evaluation, run.config.get("eval_split")
    if evaluation is run.best_evaluation and run.test_evaluation is not None:
        evaluation, split = run.test_evaluation, "test"
    dataset = run.config.get("eval_dataset") or run.config.get("dataset") or "unknown"
    dataset = printable(relative(str(dataset)))
    bound = run.bound or "unknown"
    found = []
    for key, metric, name in _METRICS:
        value = evaluation.number(key)
        if value is None or not math.isfinite(value):
            continue
        error = evaluation.nll_stderr if key == "eval_nll" else None
        found.append(
            EvalResult(
                task_type=task,
                dataset_type=dataset,
                dataset_name=dataset,
                dataset_config=run.config.get("dataset_config"),
                dataset_split=split,
                metric_type=metric,
                metric_name=f"{name} (upper bound: NELBO)" if kind_of(bound) == BOUND else name,
                metric_value=value,
                metric_args={"bound": bound} if error is None else {"bound": bound, "standard_error": error},
            )
        )
    return found or None
