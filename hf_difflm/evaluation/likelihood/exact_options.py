"""Which deterministic orders of revealing are scored, as people write them; the declaration behind flags. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...errors import UserError

ORDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "left_to_right": ("left_to_right", {}),
    "confidence": ("uncertainty", {"measure": "max_probability"}),
    "margin": ("topk_margin", {}),
    "entropy": ("entropy", {}),
    "random": ("random_order", {}),
}
"""The sampler that has the order, and its parameters."""
PACES = {"entropy_bounded": ("entropy", "bound"), "confidence_threshold": ("confidence", "threshold")}
"""Samplers that say themselves how many tokens a step reveals: their order, and their parameter."""
EXACT_BLOCKS = 64
"""Blocks that ``compare --exact`` scores."""
DEFAULT_ORDER = "confidence"
_DRAWN = "its positions are chosen by the tokens that were drawn, so no sum over one order is its likelihood"
_TIMES = "its order is drawn, not determined by what is revealed; the mean over such orders is what eval_nll bounds"
_REFUSED = {
    "low_confidence": f"{_DRAWN}; confidence is the order by the likeliest token",
    "maskgit_plus": f"{_DRAWN}; confidence is the order by the likeliest token",
    "remdm": "it masks revealed tokens again, so a text has many ways to be written",
    "ddpm": _TIMES,
    "ddpm_cache": _TIMES,
    "first_hitting": _TIMES,
    "oracle": "a search over orders looks at the text before it is written, and is out of scope",
}


@dataclass
class ExactOptions:
    """Options of :func:`hf_difflm.evaluation.exact_report.evaluate_exactly`."""

    exact_order: str = field(
        default=DEFAULT_ORDER,
        metadata={"help": f"orders of revealing, one or more of {', '.join(ORDERS)}; random:SEED is one permutation"},
    )
    tokens_per_step: str = field(
        default="1",
        metadata={
            "help": "tokens revealed together, scored as independent; or entropy_bounded[:BOUND], "
            "confidence_threshold[:THRESHOLD], which say themselves how many"
        },
    )
    exact_budget: int | None = field(
        default=None,
        metadata={
            "help": "most sequences through the model for each order; the first blocks that fit are scored",
            "min": 1,
        },
    )


@dataclass(frozen=True)
class ExactOrder:
    """A rule that names the positions to reveal next from what is revealed.

    Args:
        name: as the user wrote it, ``confidence`` or ``random:3``.
        sampler, parameters: the sampler that has this order.
        tokens_per_step: K; None where the sampler says itself how many.
        block_length: the order holds inside blocks of so many scored tokens, which are done one after the other.
    """

    name: str
    sampler: str
    parameters: dict[str, Any]
    tokens_per_step: int | None = 1
    block_length: int | None = None

    @property
    def is_fixed(self) -> bool:
        """Whether it is known before a text is read, so that no step looks at more tokens than it reveals."""
        return self.sampler in ("left_to_right", "random_order")

    @property
    def label(self) -> str:
        """Name, tokens a step and block, as logs and tables have them: ``confidence``, ``margin x4 in 16``."""
        pace = ""
        if self.tokens_per_step is None:
            pace = " " + ":".join([self.sampler, *(f"{value:g}" for value in self.parameters.values())])
        elif self.tokens_per_step > 1:
            pace = f" x{self.tokens_per_step}"
        return f"{self.name}{pace}" + (f" in {self.block_length}" if self.block_length else "")


def read_orders(options: ExactOptions, block_length: int | None = None) -> list[ExactOrder]:
    """Return the orders that are asked for.

    Raises:
        UserError: an unknown order or one without a likelihood of this kind, a seed or a number that is none, an order
            that a pace does not have, an order twice.
    """
    pace, _, value = options.tokens_per_step.partition(":")
    if pace in PACES:
        return [_paced(pace, value, options.exact_order, block_length)]
    if value or not pace.isascii() or not pace.isdigit() or int(pace) < 1:
        raise UserError(
            f"--tokens-per-step must be a positive integer, {' or '.join(PACES)}, got {options.tokens_per_step!r}"
        )
    names = [name.strip() for name in options.exact_order.split(",")]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise UserError(f"--exact-order names {twice} twice; name each order once")
    return [_order(name, int(pace), block_length) for name in names]


def _order(written: str, tokens: int, block_length: int | None) -> ExactOrder:
    name, _, seed = written.partition(":")
    if name in _REFUSED:
        raise UserError(
            f"--exact-order {name} has no exact likelihood: {_REFUSED[name]}; take one of {', '.join(ORDERS)}"
        )
    if name in PACES:
        raise UserError(f"--exact-order {name} is a number of tokens a step; give it to --tokens-per-step")
    if name not in ORDERS or (seed and name != "random"):
        raise UserError(f"--exact-order must be of {', '.join(ORDERS)} or random:SEED, got {written!r}")
    sampler, parameters = ORDERS[name]
    if name == "random":
        if not (seed or "0").isascii() or not (seed or "0").isdigit():
            raise UserError(f"the seed of --exact-order random:SEED must be an integer of 0 or more, got {seed!r}")
        parameters = {"order_seed": int(seed or 0)}
        written = f"random:{int(seed or 0)}"
    return ExactOrder(written, sampler, parameters, tokens, block_length)


def _paced(pace: str, value: str, given: str, block_length: int | None) -> ExactOrder:
    order, parameter = PACES[pace]
    if given not in (order, DEFAULT_ORDER):
        raise UserError(
            f"--tokens-per-step {pace} reveals in the order {order}, but --exact-order is {given}; leave it out"
        )
    parameters = {}
    if value:
        try:
            parameters = {parameter: float(value)}
        except ValueError:
            raise UserError(f"--tokens-per-step {pace}:{parameter.upper()} needs a number, got {value!r}") from None
    return ExactOrder(order, pace, parameters, None, block_length)
