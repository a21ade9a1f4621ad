"""``hf-difflm eval --exact``: the likelihood of deterministic orders of revealing, beside the bound of the same blocks."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data import Collator
from ..errors import UserError
from ..runs import load_run
from ..runs.comparing.exact_orders import (
    EXACT_NOTE,
    SOURCE,
    ExactNumbers,
    exact_headings,
    exact_rows,
    measured,
)
from ..runs.comparing.pairing import ratio_with_error
from ..runs.comparing.twin import find_twin
from ..runs.journal.tables import text_table
from .likelihood.batches import EvaluationBatches, rows_at
from .likelihood.evaluate import LikelihoodResult
from .likelihood.exact import ExactScorer
from .likelihood.exact_options import ExactOrder
from .likelihood.sums import LikelihoodSums
from .run_measurements import record_measurement, run_folder
from .targets import Target, target_of


@dataclass(frozen=True)
class ExactFindings:
    """What was found.

    Args:
        found: by the label of each order.
        twin: name of the twin; empty where there is none.
    """

    found: dict[str, ExactNumbers]
    twin: str

    def to_text(self, name: str) -> str:
        """Return the table, with ``name`` for the model."""
        rows = exact_rows(self.found, name, self.twin)
        return text_table(exact_headings(), rows, shutil.get_terminal_size((160, 24)).columns) + f"\n{EXACT_NOTE}"


def orders_of(target: Target, orders: Sequence[ExactOrder]) -> Sequence[ExactOrder]:
    """Return the orders as a model has them: one with diffusion blocks reveals within these.

    Raises:
        UserError: there is nothing that an order could be chosen for, or blocks of another size than the model's.
    """
    if not target.is_denoiser:
        raise UserError(f"{target.source} is a causal LM, whose eval_nll is exact already; leave out --exact")
    size = target.model.config.diffusion_block_size
    if size is None:
        return orders
    if other := next((one.block_length for one in orders if one.block_length not in (None, size)), None):
        raise UserError(
            f"--block-length is {other}, but {target.source} has diffusion blocks of {size} tokens; leave it out"
        )
    return [replace(order, block_length=None) for order in orders]


def first_rows(target: Target, dataset: Any, orders: Sequence[ExactOrder], budget: int | None) -> Any:
    """Return the first blocks of an evaluation set that fit into a number of forwards for each order, and say how many.

    Args:
        target: the model.
        dataset: evaluation rows.
        orders: of revealing.
        budget: most sequences through the model; None: no limit.

    Raises:
        UserError: not even the first block fits.
    """
    if budget is None:
        return dataset
    spent, rows = np.zeros(len(orders), dtype=np.int64), 0
    scorers = [ExactScorer(target.model, order, "blocks") for order in orders]
    for batch in EvaluationBatches(dataset, Collator(target.tokenizer), 1):
        spent += [int(scorer.forwards(batch)[0]) for scorer in scorers]
        if spent.max() > budget:
            break
        rows += 1
    if rows == 0:
        raise UserError(f"--exact-budget {budget} is less than the {spent.max()} forwards of the first block; raise it")
    print(f"exact: the first {rows:,} of {len(dataset):,} blocks fit into {budget:,} forwards", file=sys.stderr)
    return rows_at(dataset, range(rows))


def exact_likelihoods(
    target: Target,
    dataset: Any,
    settings: dict[str, Any],
    orders: Sequence[ExactOrder],
    bound: LikelihoodResult,
    twin: LikelihoodResult | None,
) -> dict[str, ExactNumbers]:
    """Score an evaluation set under each order.

    Args:
        target: the model.
        dataset: evaluation rows.
        settings: of the run; ``bf16``: compute in bfloat16.
        orders: of revealing.
        bound: the bound of the same rows.
        twin: the exact likelihood of the same rows under the autoregressive twin.

    Returns:
        By the label of each order.
    """
    device = target.model.device
    batches = EvaluationBatches(dataset, Collator(target.tokenizer), settings.get("per_device_eval_batch_size", 32))
    found = {}
    for order in orders:
        bar = tqdm(total=bound.scored_tokens, desc=f"exact, {order.label}", unit=" tokens", leave=False, disable=None)
        with bar, torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings["bf16"]):
            sums = ExactScorer(target.model, order, bound.data_unit)(batches, bar.update)
        size = target.model.config.diffusion_block_size or order.block_length
        found[order.label] = _numbers(order, size, sums, len(dataset), bound, twin)
    return found


def twin_of(target: str, loaded: Target, changes: dict[str, Any]) -> tuple[str, Target] | None:
    """Return name and model of the autoregressive twin in a neighbouring folder; None where there is none.

    Args:
        target: the run.
        loaded: its model.
        changes: how that was loaded, of which ``use_cpu``, ``dtype`` and ``bf16`` are for the twin too.
    """
    folder = run_folder(target)
    run = None if folder is None else find_twin(load_run(folder))
    if run is None or not (Path(run.path).parent / "best" / "config.json").exists():
        return None
    alike: dict[str, Any] = {name: changes[name] for name in ("use_cpu", "dtype", "bf16") if name in changes}
    twin = target_of(str(Path(run.path).parent), alike)
    return (run.name, twin) if twin.tokenizer.get_vocab() == loaded.tokenizer.get_vocab() else None


def keep_exact(target: str, step: int | None, found: dict[str, ExactNumbers], on_test: bool = False) -> None:
    """Put the numbers into the log of a run; those of the test under names of their own."""
    suffix = " on test" if on_test else ""
    record_measurement(target, step, SOURCE, measured({f"{label}{suffix}": one for label, one in found.items()}))


def _numbers(
    order: ExactOrder,
    block_length: int | None,
    sums: LikelihoodSums,
    blocks: int,
    bound: LikelihoodResult,
    twin: LikelihoodResult | None,
) -> ExactNumbers:
    nll_U, tokens_U = sums.unit_nll_KU[0], sums.unit_tokens
    total, tokens = float(nll_U.sum()), int(tokens_U.sum())
    nll = total / tokens
    minus_nelbo, minus_nelbo_stderr = _paired(nll_U, bound.unit_nll, tokens_U)
    minus_twin, minus_twin_stderr = (None, None) if twin is None else _paired(nll_U, twin.unit_nll, tokens_U)
    return ExactNumbers(
        eval_exact_nll=nll,
        eval_exact_ppl=math.inf if nll > 700 else math.exp(nll),
        eval_exact_bpb=total / math.log(2) / sums.num_bytes if sums.num_bytes else None,
        eval_exact_nll_data_stderr=_paired(nll_U, np.zeros_like(nll_U), tokens_U)[1],
        tokens_per_step=order.tokens_per_step,
        block_length=block_length,
        blocks=blocks,
        scored_tokens=tokens,
        units=len(tokens_U),
        forwards=sums.forwards,
        nelbo=bound.nll,
        nelbo_stderr=bound.nll_stderr,
        minus_nelbo=minus_nelbo,
        minus_nelbo_stderr=minus_nelbo_stderr,
        twin=None if twin is None else twin.nll,
        minus_twin=minus_twin,
        minus_twin_stderr=minus_twin_stderr,
    )


def _paired(first_U: np.ndarray, second_U: np.ndarray, tokens_U: np.ndarray) -> tuple[float, float | None]:
    if len(tokens_U) < 2:
        return float((first_U - second_U).sum() / tokens_U.sum()), None
    return ratio_with_error(first_U - second_U, tokens_U)
