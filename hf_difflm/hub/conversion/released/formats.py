"""Which format a model folder has: by its ``model_type``, its ``architectures`` and the names of its weights together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ....errors import UserError
from ....models import MaskedDiffusionConfig
from .llada import llada_config, llada_names
from .llada_moe import llada_moe_config, llada_moe_names
from .qwens import a2d_config, dream_config, sdar_config, stock_names
from .refused import REFUSED_TYPES, architectures_of
from .values import Values


@dataclass(frozen=True)
class Format:
    """A format of released models.

    Attributes:
        title: what people call it.
        model_types, architectures: in ``config.json``.
        marks: ends of names of weights that all of its files have.
        others: ends of names that none of them has, and that those of a kindred format have.
        config: the denoiser that its configuration describes.
        names: its name or names for a weight of ours; several stand one behind the other in ours.
        law: whether the format says itself whether it shifts; else the user may.
        blocks: whether it has diffusion blocks; None: where the user says so.
    """

    title: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    marks: tuple[str, ...]
    others: tuple[str, ...]
    config: Callable[[Values], MaskedDiffusionConfig]
    names: Callable[[MaskedDiffusionConfig, str], list[str]]
    law: bool = True
    blocks: bool | None = False


FORMATS = (
    Format(
        "LLaDA",
        ("llada",),
        ("LLaDAModelLM",),
        ("transformer.wte.weight", ".ff_proj.weight", ".up_proj.weight"),
        (".att_proj.weight",),
        llada_config,
        llada_names,
    ),
    Format(
        "LLaDA-MoE",
        ("lladamoe",),
        ("LLaDAMoEModelLM",),
        (".experts.0.gate_proj.weight", ".q_norm.weight"),
        (".expert_bias", ".shared_expert.gate_proj.weight"),
        llada_moe_config,
        llada_moe_names,
    ),
    Format(
        "Dream",
        ("Dream",),
        ("DreamModel",),
        ("model.embed_tokens.weight", ".q_proj.bias"),
        (".q_norm.weight",),
        dream_config,
        stock_names,
    ),
    Format(
        "SDAR",
        ("sdar",),
        ("SDARForCausalLM",),
        ("model.embed_tokens.weight", ".q_norm.weight"),
        (".experts.0.gate_proj.weight", ".q_proj.bias"),
        sdar_config,
        stock_names,
        blocks=True,
    ),
    Format(
        "A2D",
        ("a2d-llama", "a2d-qwen2", "a2d-qwen3"),
        ("A2DLlamaLMHeadModel", "A2DQwen2LMHeadModel", "A2DQwen3LMHeadModel"),
        ("model.embed_tokens.weight",),
        (),
        a2d_config,
        stock_names,
        law=False,
        blocks=None,
    ),
)


class _Released(PreTrainedConfig):
    """Keeps nothing of what ``config.json`` says, which :class:`Values` reads; transformers would change some keys."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__()


def _register() -> None:
    """Make the model types known to transformers, so that a folder of one is checked like others and needs no code."""
    for kind in [*(name for one in FORMATS for name in one.model_types), *REFUSED_TYPES]:
        AutoConfig.register(kind, type("Released", (_Released,), {"model_type": kind}), exist_ok=True)


_register()


def format_of(config: dict[str, Any], weights: Collection[str], name: str) -> Format | None:
    """The released format of a model folder; None where it is none of them.

    Args:
        config: ``config.json``.
        weights: names of all weights.
        name: what the user knows the model as.

    Raises:
        UserError: type, architecture and weights are not of one format.
    """
    kind, architectures = config.get("model_type"), architectures_of(config)
    by_kind = {one.title: one for one in FORMATS if kind in one.model_types}
    by_class = {one.title: one for one in FORMATS for known in architectures if known in one.architectures}
    found = next(iter((by_kind or by_class).values()), None)
    if found is None:
        return None
    if (architectures and found.title not in by_class) or found.title not in by_kind:
        raise UserError(
            f"{name} has the model type {kind!r} and the architecture {', '.join(architectures)}, which are not of one "
            f"model; correct its config.json ({found.title}: {found.model_types[0]!r} and {found.architectures[0]!r})"
        )
    for mark in found.marks:
        if not any(weight.endswith(mark) for weight in weights):
            raise UserError(
                f"{name} says that it is a {found.title}, but none of its weights is a {mark}; give another"
            )
    for mark in found.others:
        if other := next((weight for weight in sorted(weights) if weight.endswith(mark)), None):
            raise UserError(
                f"{name} says that it is a {found.title}, which has no weights {other}; this kind of {found.title} is not "
                "converted"
            )
    return found
