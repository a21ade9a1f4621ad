"""``hf-difflm eval --protocol``: the likelihood as another project computes it, the bound beside it, and why they differ."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

from ...data import Collator
from ...data.collator import IGNORED
from ...errors import UserError
from ...runs.journal.strict_json import dumps
from ...runs.journal.tables import with_error
from ..conditions import Conditions
from ..exact_report import exact_likelihoods, first_rows, orders_of
from ..likelihood.evaluate import LikelihoodResult
from ..likelihood.exact_options import ExactOrder
from ..likelihood.zero_shot import evaluation_data
from ..precision import computed_in
from ..report import draws_of, score
from ..targets import Target, target_of
from .laws import LAWS, Law
from .options import ProtocolOptions
from .scoring import Estimate, ProtocolResult, Text, score_texts

_MASK_TOKEN = "their softmax spends probability on the mask token, which no text has"
_EOS = "an EOS behind the text is seen, neither hidden nor scored"
_DRAWS = "the errors of both by their draws; no other cause"


def evaluate_protocol(
    target: str,
    changes: dict[str, Any],
    options: ProtocolOptions,
    as_json: bool,
    orders: Sequence[ExactOrder] = (),
    exact_budget: int | None = None,
) -> None:
    """Evaluate a model as another project does and as this library does, and print both and their difference by cause.

    What is not scored in a row is its prompt, and all numbers are of the same tokens.

    Args:
        target: see :func:`~hf_difflm.evaluation.targets.load_target`.
        changes: typed settings that differ from those of the run.
        options: with a protocol.
        as_json: JSON alone on stdout instead of a table.
        orders, exact_budget: as in :func:`~hf_difflm.evaluation.report.evaluate_target`.

    Raises:
        UserError: nothing to load, or nothing to evaluate on; a model or text that the protocol is not for.
    """
    options.check()
    loaded = target_of(target, changes)
    assert options.protocol is not None
    law = LAWS[options.protocol]
    _refuse_others(loaded, options.protocol)
    if orders:
        orders = orders_of(loaded, orders)
    settings = {**loaded.config, "bf16": False, **changes}
    data_of, data, _ = evaluation_data(loaded, changes)
    print(data.summary(), file=sys.stderr)
    rows = first_rows(loaded, data.eval, orders, exact_budget) if orders else data.eval
    texts = list(_texts(loaded, rows))
    if not texts:
        raise UserError(f"the protocol {options.protocol} scores no token of this text; give longer blocks")
    _refuse_long(loaded, law, texts)
    bound = score(loaded, rows, settings, draws_of(settings, changes))
    with torch.autocast(loaded.model.device.type, dtype=torch.bfloat16, enabled=settings["bf16"]):
        found = score_texts(
            loaded.model,
            law,
            tqdm(texts, desc=f"protocol {options.protocol}", leave=False, dynamic_ncols=True, disable=None),
            draws=options.protocol_draws,
            batch=options.protocol_batch,
            eos_token_id=loaded.tokenizer.eos_token_id,
            seed=settings.get("eval_seed", 0),
            rows=settings.get("per_device_eval_batch_size", 32),
        )
    exact = exact_likelihoods(loaded, rows, settings, orders, bound, None) if orders else {}
    record: dict[str, Any] = {
        "target": loaded.source,
        "iter": loaded.step,
        "dataset": data_of.dataset,
        "eval_split": data_of.eval_split,
        "protocol": options.protocol,
        "protocol_draws": options.protocol_draws,
        "protocol_batch": options.protocol_batch,
        "protocol_nll": found.nll.value,
        "protocol_nll_stderr": found.nll.stderr,
        "protocol_forwards": found.forwards,
        "scored_tokens": found.scored_tokens,
        "eval_nll": bound.nll,
        "eval_nll_stderr": bound.nll_stderr,
        "eval_nll_data_stderr": bound.nll_data_stderr,
        "minus_eval_nll": dataclasses.asdict(_difference(found.nll, bound)),
        "because": {
            name: {**dataclasses.asdict(part), "why": why} for name, part, why in _causes(law, found, bound, options)
        },
        "log_likelihoods": found.log_likelihoods_T.tolist(),
        "dtype": computed_in(loaded.model, settings["bf16"]),
        **(data.conventions or loaded.text.facts),
        "eval_replicates": bound.replicates,
    }
    conditions = Conditions(options.protocol, options.protocol_draws, record["bos_token"], data_of.sft)
    record |= conditions.to_json()
    if orders:
        record["exact"] = {label: one.to_json() for label, one in exact.items()}
    if as_json:
        print(json.dumps(json.loads(dumps(record)), indent=2))
        return
    _print_table(law, found, bound, options, record, conditions)


def _refuse_others(target: Target, protocol: str) -> None:
    if not target.is_denoiser:
        raise UserError(
            f"--protocol {protocol} masks tokens, but {target.source} is a causal LM, whose eval_nll is exact; leave it out"
        )
    size = target.model.config.diffusion_block_size
    if size is not None:
        raise UserError(
            f"--protocol {protocol} masks a whole text at once, but {target.source} has diffusion blocks of {size} tokens; "
            "leave it out"
        )
    if LAWS[protocol].shows_eos and target.tokenizer.eos_token_id is None:
        raise UserError(
            f"--protocol {protocol} puts EOS behind each text, which the tokenizer of {target.source} lacks; leave it out"
        )


def _refuse_long(target: Target, law: Law, texts: Sequence[Text]) -> None:
    limit = getattr(target.model.config, "max_position_embeddings", None)
    longest = max(len(text.ids_L) for text in texts) + law.shows_eos
    if limit is not None and longest > limit:
        raise UserError(
            f"a text and the EOS behind it are {longest:,} tokens, but {target.source} takes {limit:,}; lower --block-size"
        )


def _texts(target: Target, rows: Any) -> Iterator[Text]:
    """Rows without their padding; those of which nothing is scored are left out."""
    collator = Collator(target.tokenizer)
    for number in range(len(rows)):
        batch = collator([rows[number]])
        kept_L = batch["attention_mask"][0] == 1
        places_N = np.flatnonzero((batch["labels"][0][kept_L] != IGNORED).numpy())
        if len(places_N):
            yield Text(number, batch["input_ids"][0][kept_L].numpy(), places_N)


def _difference(one: Estimate, bound: LikelihoodResult) -> Estimate:
    errors = (one.stderr, bound.nll_stderr)
    stderr = None if None in errors else math.hypot(*errors)  # type: ignore[arg-type]
    return Estimate(one.value - bound.nll, stderr)


def _causes(
    law: Law, found: ProtocolResult, bound: LikelihoodResult, options: ProtocolOptions
) -> Iterator[tuple[str, Estimate, str]]:
    """Name, size and reason of what the difference is made of, which they sum to."""
    yield "mask_token", found.mask_token, _MASK_TOKEN
    yield "masks", found.masks, law.why(found.lengths, options.protocol_batch)
    if found.eos is not None:
        yield "visible_eos", found.eos, _EOS
    yield "draws", _difference(found.p0, bound), _DRAWS


def _print_table(
    law: Law,
    found: ProtocolResult,
    bound: LikelihoodResult,
    options: ProtocolOptions,
    record: dict[str, Any],
    conditions: Conditions,
) -> None:
    table = Table("", "nats/token", "")
    drawn = f"{options.protocol_draws} draws of each text, in batches of {options.protocol_batch}"
    table.add_row(
        f"protocol {options.protocol}", with_error(found.nll.value, found.nll.stderr, 5), f"{law.title}: {drawn}"
    )
    table.add_row(
        "eval_nll", with_error(bound.nll, bound.nll_stderr, 5), f"P0, an upper bound; {bound.replicates} draws"
    )
    difference = record["minus_eval_nll"]
    table.add_row("difference", _signed(Estimate(**difference)), "of which", end_section=False)
    for name, part, why in _causes(law, found, bound, options):
        table.add_row(f"  {name}", _signed(part), why)
    for label, one in record.get("exact", {}).items():
        table.add_row(f"exact {label}", f"{one['eval_exact_nll']:.5f}", "this order; no draws")
        minus = Estimate(found.nll.value - one["eval_exact_nll"], found.nll.stderr)
        table.add_row("  protocol minus it", _signed(minus), "")
    print(record["target"])
    Console().print(table)
    print("; ".join(f"{name}: {words}" for name, words in conditions.rows(law.title)))
    print(
        f"{found.scored_tokens:,} tokens scored, in both; {found.forwards:,} sequences through the model for the protocol"
    )


def _signed(one: Estimate) -> str:
    return ("+" if one.value > 0 else "") + with_error(one.value, one.stderr, 5)
