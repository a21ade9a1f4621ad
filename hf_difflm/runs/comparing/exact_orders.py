"""Exact likelihoods of orders of revealing in the log of a run, beside the bound and the twin of the same blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..journal.measurements import numbers
from ..journal.run import Run
from ..journal.tables import count, number, with_error
from .verdicts import half_interval

SOURCE = "exact"
"""``source`` of the measurements."""


@dataclass(frozen=True)
class ExactNumbers:
    """The exact likelihood under one order, and what the bound and the twin say of the very same blocks.

    Args:
        eval_exact_nll: nats per scored token.
        eval_exact_ppl: exp of that.
        eval_exact_bpb: bits per UTF-8 byte; None where the bytes are not known.
        eval_exact_nll_data_stderr: standard error over documents or blocks; None with fewer than two.
        tokens_per_step: revealed together; None where the order says itself how many.
        block_length: tokens of the blocks that the order is inside of, the model's own or those asked for; None: one.
        blocks: that were scored.
        scored_tokens: in them.
        units: documents or blocks, by which it is paired.
        forwards: sequences through the model.
        nelbo, nelbo_stderr: the bound on these blocks and its Monte-Carlo standard error.
        minus_nelbo, minus_nelbo_stderr: ``eval_exact_nll`` less ``nelbo``, paired.
        twin: nll of the autoregressive twin on these blocks; None where there is none.
        minus_twin, minus_twin_stderr: ``eval_exact_nll`` less ``twin``, paired.
    """

    eval_exact_nll: float
    eval_exact_ppl: float
    eval_exact_bpb: float | None
    eval_exact_nll_data_stderr: float | None
    tokens_per_step: int | None
    block_length: int | None
    blocks: int
    scored_tokens: int
    units: int
    forwards: int
    nelbo: float
    nelbo_stderr: float | None
    minus_nelbo: float
    minus_nelbo_stderr: float | None
    twin: float | None = None
    minus_twin: float | None = None
    minus_twin_stderr: float | None = None

    def to_json(self) -> dict[str, Any]:
        """What is known, by name, and that it is exact."""
        return {name: value for name, value in asdict(self).items() if value is not None} | {"bound": "exact"}


def measured(found: dict[str, ExactNumbers]) -> dict[str, float]:
    """Return the numbers of each order by its label, as the log of a run keeps them: ``confidence/eval_exact_nll``."""
    return {
        f"{label}/{name}": value
        for label, one in found.items()
        for name, value in asdict(one).items()
        if value is not None
    }


def exact_numbers(run: Run) -> dict[str, ExactNumbers]:
    """Return what the log says of the weights in ``best/``: by order, the last of each."""
    best = run.best_evaluation
    found: dict[str, dict[str, float]] = {}
    for record in run.measurements:
        if record.source == SOURCE and best is not None and record.iter == best.iter:
            of_record: dict[str, dict[str, float]] = {}
            for name, value in numbers(record).items():
                label, _, field = name.rpartition("/")
                of_record.setdefault(label, {})[field] = value
            found |= of_record
    names = ExactNumbers.__dataclass_fields__
    empty = dict.fromkeys(names)
    return {
        label: ExactNumbers(**{**empty, **{name: value for name, value in values.items() if name in names}})  # type: ignore[arg-type]
        for label, values in found.items()
        if {"eval_exact_nll", "nelbo", "blocks"} <= values.keys()
    }


def exact_rows(found: dict[str, ExactNumbers], name: str, twin: str) -> list[list[str]]:
    """Return rows under :func:`exact_headings`: for each set of blocks the bound, each order, the twin.

    Args:
        found: see :func:`exact_numbers`.
        name, twin: what to call the run and its twin.
    """
    rows = []
    for blocks in dict.fromkeys((one.blocks, one.nelbo) for one in found.values()):
        here = {label: one for label, one in found.items() if (one.blocks, one.nelbo) == blocks}
        first = next(iter(here.values()))
        told = count(first.blocks)
        # With diffusion blocks of one token nothing is drawn, and the number is the same in every order.
        said = ("left to right, its own", "exact") if first.nelbo_stderr == 0 else ("drawn (its mean)", "nelbo")
        rows.append([name, said[0], with_error(first.nelbo, first.nelbo_stderr), "", "", "", said[1], told])
        for label, one in here.items():
            rows.append(
                [
                    name,
                    label,
                    number(one.eval_exact_nll, 4),
                    _interval(one.minus_nelbo, one.minus_nelbo_stderr, one.units),
                    _interval(one.minus_twin, one.minus_twin_stderr, one.units),
                    number(one.eval_exact_ppl, 3),
                    "exact",
                    told,
                ]
            )
        if first.twin is not None:
            rows.append([twin, "left to right, its own", number(first.twin, 4), "", "", "", "exact", told])
    return rows


def exact_headings() -> list[str]:
    """Return what stands above :func:`exact_rows`."""
    headings = ["run", "order of revealing", "nats/token ± se", "less the bound (95 %)", "less the twin (95 %)"]
    return [*headings, "perplexity", "bound", "blocks"]


EXACT_NOTE = (
    "Exact is the likelihood of the sampler that reveals in this order, at temperature 1; intervals are of differences "
    "paired over documents, or blocks where all is one document."
)


def exact_table(runs: Sequence[Run], names: Sequence[str]) -> tuple[list[str], list[list[str]]] | None:
    """Return headings and rows of all runs that have exact likelihoods; None where none has."""
    rows = []
    twins = [name for run, name in zip(runs, names, strict=True) if run.objective == "ar"]
    for run, name in zip(runs, names, strict=True):
        rows += exact_rows(exact_numbers(run), name, twins[0] if len(twins) == 1 else f"twin of {name}")
    return (exact_headings(), rows) if rows else None


def _interval(difference: float | None, stderr: float | None, units: int) -> str:
    if difference is None:
        return ""
    half = None if stderr is None else half_interval(stderr, units)
    return f"{difference:+.4f}" + ("" if half is None else f" ± {half:.4f}")
