"""``hf-difflm eval``: load, score, print."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from ..data import Collator
from ..data.prepare_held import TEST
from ..objectives import BlockDiffusionObjective, CausalObjective, MaskedDiffusionObjective, Objective
from ..runs import load_run
from ..runs.comparing.exact_orders import exact_numbers
from ..runs.journal.strict_json import dumps
from ..runs.journal.tables import with_error
from .conditions import Conditions, of_bound
from .exact_report import (
    ExactFindings,
    exact_likelihoods,
    first_rows,
    keep_exact,
    orders_of,
    twin_of,
)
from .held_out_numbers import keep_test
from .likelihood.batches import EvaluationBatches, data_unit, rows_at
from .likelihood.draws import MOST_REPLICATES, Draws
from .likelihood.evaluate import LikelihoodResult, evaluate_likelihood
from .likelihood.exact_options import ExactOrder
from .likelihood.zero_shot import evaluation_data
from .precision import computed_in
from .run_measurements import record_measurement
from .targets import Target, target_of

_OF_THE_RUN = frozenset(
    {
        *("use_cpu", "max_eval_blocks", "per_device_eval_batch_size"),
        *("eval_replicates", "target_stderr", "max_eval_replicates", "eval_pairs", "eval_seed"),
    }
)
"""Changes under which exact likelihoods are still those of the run: of its own text, in the same numbers."""


def evaluate_target(
    target: str,
    changes: dict[str, Any],
    as_json: bool,
    orders: Sequence[ExactOrder] = (),
    exact_budget: int | None = None,
) -> None:
    """Evaluate a run, checkpoint or model and print what it found.

    Args:
        target: see :func:`load_target`.
        changes: typed settings that differ from those of the run.
        as_json: JSON alone on stdout instead of a table.
        orders: of revealing, of each of which the exact likelihood is told too.
        exact_budget: most sequences through the model for each of them; the first blocks that fit are evaluated.

    Raises:
        UserError: nothing to load, or nothing to evaluate on.
    """
    loaded = target_of(target, changes)
    if orders:
        orders = orders_of(loaded, orders)
    settings = {**loaded.config, "bf16": False, **changes}  # a run's own bf16 is how it was trained
    draws = draws_of(settings, changes)
    options, data, zero_shot = evaluation_data(loaded, changes)
    print(data.summary(), file=sys.stderr)
    rows = first_rows(loaded, data.eval, orders, exact_budget) if orders else data.eval
    result = score(loaded, rows, settings, draws)
    if (missed := _missed(result, draws)) is not None:
        print(missed, file=sys.stderr)
    record = {
        "target": loaded.source,
        "iter": loaded.step,
        "dataset": options.dataset,
        "eval_split": options.eval_split,
        "packing": options.packing,
        **result.metrics(),
        "bound": result.bound,
        "dtype": computed_in(loaded.model, settings["bf16"]),
        "data_unit": result.data_unit,
        "target_stderr": draws.target_stderr,
        "source_nll": data.source_nll,
        **(data.conventions or loaded.text.facts),
    }
    record |= _errors(record)
    conditions = of_bound(result.bound, result.replicates, record["bos_token"], options.sft)
    record |= conditions.to_json()
    exact = _exact(target, loaded, rows, changes, orders, result) if orders else None
    if exact is not None:
        record["exact"] = {label: one.to_json() for label, one in exact.found.items()}
        on_test = options.eval_split == TEST
        if zero_shot is None and changes.keys() <= {*_OF_THE_RUN, *(["eval_split"] if on_test else [])}:
            keep_exact(target, loaded.step, exact.found, on_test)
    if zero_shot is not None:
        record |= {"block_size": options.block_size, **dataclasses.asdict(zero_shot)}
        record_measurement(target, loaded.step, "zero_shot", _zero_shot_numbers(record))
    elif options.eval_split == TEST and not orders and changes.keys() <= {"eval_split", "use_cpu"}:
        keep_test(target, loaded, data.eval, result)
    if as_json:
        print(json.dumps(json.loads(dumps(record)), indent=2))
    else:
        _print_table(result, record, conditions)
        if exact is not None:
            print(exact.to_text(Path(target).name))


def exact_numbers_of(target: str, orders: Sequence[ExactOrder], blocks: int) -> None:
    """Put the exact likelihoods of the first evaluation blocks of a run into its log.

    Args:
        target: the run.
        orders: of revealing.
        blocks: how many.

    Raises:
        UserError: nothing to load, or a causal LM.
    """
    run = load_run(target)
    blocks = min(blocks, run.header.data["counts"]["eval"]["blocks"])
    known = exact_numbers(run)
    if all(order.label in known and known[order.label].blocks == blocks for order in orders):
        return
    loaded = target_of(target, {})
    orders = orders_of(loaded, orders)
    settings = {**loaded.config, "bf16": False}
    _, data, _ = evaluation_data(loaded, {})
    rows = rows_at(data.eval, range(blocks))
    result = score(loaded, rows, settings, draws_of(settings, {}))
    keep_exact(target, loaded.step, _exact(target, loaded, rows, {}, orders, result).found)


def _exact(
    target: str,
    loaded: Target,
    rows: Any,
    changes: dict[str, Any],
    orders: Sequence[ExactOrder],
    bound: LikelihoodResult,
) -> ExactFindings:
    """The likelihood of each order, beside the bound and the twin of the same rows, computed in the same numbers."""
    settings = {**loaded.config, "bf16": False, **changes}
    beside = twin_of(target, loaded, changes)
    twin = None if beside is None else score(beside[1], rows, settings, Draws(1))
    found = exact_likelihoods(loaded, rows, settings, orders, bound, twin)
    return ExactFindings(found, "" if beside is None else beside[0])


def _errors(record: dict[str, Any]) -> dict[str, float]:
    """The Monte-Carlo errors of what is made of ``eval_nll``: its own times the slope."""
    stderr, found = record.get("eval_nll_stderr"), {}
    if stderr is not None:
        found["eval_ppl_stderr"] = record["eval_ppl"] * stderr
        if "eval_bpb" in record and record["eval_nll"]:
            found["eval_bpb_stderr"] = record["eval_bpb"] * stderr / record["eval_nll"]
    return found


def _zero_shot_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """What the run log keeps of an evaluation on data that the run does not know: ``ptb/nll``, ``ptb/ppl``, ..."""
    names = (
        *("nll", "nll_stderr", "nll_data_stderr", "bpb", "bpb_stderr", "ppl", "ppl_stderr", "accuracy"),
        *("scored_tokens", "replicates"),
    )
    data = Path(record["dataset"]).name
    numbers = {f"{data}/{name}": record[f"eval_{name}"] for name in names if f"eval_{name}" in record}
    told = ("block_size", *Conditions.__dataclass_fields__)
    return {**numbers, **{f"{data}/{name}": record[name] for name in told}}


def draws_of(settings: dict[str, Any], changes: dict[str, Any]) -> Draws:
    """How many draws; a number that was asked for is that number, even if the run had a target."""
    fixed = "eval_replicates" in changes and "target_stderr" not in changes
    target = None if fixed else settings.get("target_stderr")
    of_run = {} if target is None else settings
    most = changes.get("max_eval_replicates", of_run.get("max_eval_replicates", MOST_REPLICATES))
    return Draws(settings.get("eval_replicates", 8), target, most)


def _missed(result: LikelihoodResult, draws: Draws) -> str | None:
    """A sentence where the draws ended before the standard error was small enough."""
    target, found = draws.target_stderr, result.nll_stderr
    if target is None or found is None or found <= target:
        return None
    return (
        f"the standard error is {found:.4g} after {result.replicates} draws, above target_stderr {target:g}; "
        "raise --max-eval-replicates"
    )


def score(target: Target, dataset: Any, settings: dict[str, Any], draws: Draws) -> LikelihoodResult:
    """The likelihood of a data set under a model, drawn as the settings of its run say.

    Args:
        target: the model.
        dataset: evaluation rows.
        settings: of the run; ``bf16``: compute in bfloat16.
        draws: how many.
    """
    objective: Objective = CausalObjective()
    if target.is_denoiser:
        config: Any = target.model.config
        objective = MaskedDiffusionObjective(config.mask_token_id)
        if config.diffusion_block_size is not None:
            objective = BlockDiffusionObjective(
                config.mask_token_id,
                config.diffusion_block_size,
                diffusion_block_start=config.diffusion_block_start,
            )
    objective = objective.for_evaluation(settings.get("eval_pairs", False), draws.fewest)
    device = target.model.device
    rows = settings.get("per_device_eval_batch_size", 32)
    batches = EvaluationBatches(dataset, Collator(target.tokenizer), rows)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings["bf16"]):
        return evaluate_likelihood(
            target.model,
            objective,
            batches,
            len(dataset),
            replicates=draws.replicates,
            target_stderr=draws.target_stderr,
            max_replicates=draws.max_replicates,
            replicates_at_once=batches.replicates_at_once,
            seed=settings.get("eval_seed", 0),
            data_unit=data_unit(dataset),
            device=device,
            progress=_with_progress,
        )


def _with_progress(batches: Any, words: str) -> Any:
    return tqdm(batches, desc=words, leave=False, dynamic_ncols=True, disable=None)  # None: where stderr is no terminal


def _print_table(result: LikelihoodResult, record: dict[str, Any], conditions: Conditions) -> None:
    table = Table(show_header=False)
    error = "" if result.nll_stderr is None else f" ± {result.nll_stderr:.4f} (Monte Carlo, {result.replicates} draws)"
    rows = [
        ("eval_nll", f"{result.nll:.4f}{error if result.bound == 'nelbo' else ''} nats/token"),
        ("bound", "nelbo: an upper bound on the nll" if result.bound == "nelbo" else "exact"),
    ]
    if result.nll_data_stderr is not None:
        rows.append(
            ("eval_nll_data_stderr", f"{result.nll_data_stderr:.4f} (over {len(result.unit_ids)} {result.data_unit})")
        )
    if "eval_bpb" in record:
        rows.append(("eval_bpb", f"{with_error(record['eval_bpb'], record.get('eval_bpb_stderr'))} bits/byte"))
    rows.append(("eval_ppl", with_error(record["eval_ppl"], record.get("eval_ppl_stderr"), 3)))
    rows.append(("eval_accuracy", f"{record['eval_accuracy']:.4f}"))
    if record["source_nll"] is not None:
        rows.append(("source_nll", f"{record['source_nll']:.4f} nats/token (the data's own)"))
    rows.append(("dtype", str(record["dtype"])))
    rows += conditions.rows()
    rows.append(("scored", f"{result.scored_tokens:,} tokens, {result.forwards:,} sequences through the model"))
    for row in rows:
        table.add_row(*row)
    print(record["target"])
    Console().print(table)
