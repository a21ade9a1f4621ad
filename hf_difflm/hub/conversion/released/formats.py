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
from .mixtures import rnd1_config, sdar_moe_config
from .qwens import (
    a2d_config,
    diffullama_config,
    dream_blocks_config,
    dream_config,
    fast_dllm_config,
    sdar_config,
    stock_names,
)
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
        block_key: what its configuration calls the tokens of a diffusion block; None: it has none.
        owner_says: whether shift and blocks are nowhere in the folder, and the user may say them.
        mask: of the releases, where their configuration does not say it; for a sentence alone.
        asked_as: what the user has to say, where the folder cannot: it looks as a causal LM of transformers does.
        sampled_by: options of ``generate`` for the sampler it was published with, as its code has them.
        is_checked: whether what is made of it was held against its authors' code; where not, it is said wherever it goes.
    """

    title: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    marks: tuple[str, ...]
    others: tuple[str, ...]
    config: Callable[[Values], MaskedDiffusionConfig]
    names: Callable[[MaskedDiffusionConfig, str], list[str]]
    block_key: str | None = None
    owner_says: bool = False
    mask: int | None = None
    asked_as: str | None = None
    sampled_by: str | None = None
    is_checked: bool = True

    @property
    def kind(self) -> str:
        """What configuration, card and output call it."""
        return self.title if self.is_checked else f"{self.title}, not checked against the authors' code"

    def lacks(self, weights: Collection[str]) -> str | None:
        """The end of the name of weights that all of its files have and this one has not."""
        return next((mark for mark in self.marks if not any(weight.endswith(mark) for weight in weights)), None)

    def exceeds(self, weights: Collection[str]) -> str | None:
        """Weights that none of its files has."""
        return next((weight for weight in sorted(weights) if weight.endswith(self.others)), None)


FORMATS = (
    Format(
        "LLaDA",
        ("llada",),
        ("LLaDAModelLM",),
        ("transformer.wte.weight", ".ff_proj.weight", ".up_proj.weight"),
        (".att_proj.weight",),
        llada_config,
        llada_names,
        sampled_by="--sampler llada --max-new-tokens 128 --max-denoising-steps 128 --block-length 32 --temperature 0",
    ),
    Format(
        "LLaDA-MoE",
        ("lladamoe",),
        ("LLaDAMoEModelLM",),
        (".experts.0.gate_proj.weight", ".q_norm.weight"),
        (".expert_bias", ".shared_expert.gate_proj.weight"),
        llada_moe_config,
        llada_moe_names,
        mask=156895,
    ),
    Format(
        "Dream",
        ("Dream",),
        ("DreamModel",),
        ("model.embed_tokens.weight", ".q_proj.bias"),
        (".q_norm.weight",),
        dream_config,
        stock_names,
        sampled_by="--sampler dream --max-new-tokens 512 --max-denoising-steps 512 --temperature 0",
    ),
    Format(
        "SDAR",
        ("sdar",),
        ("SDARForCausalLM",),
        ("model.embed_tokens.weight", ".q_norm.weight"),
        (".experts.0.gate_proj.weight", ".q_proj.bias"),
        sdar_config,
        stock_names,
        block_key="block_size",
        sampled_by="--sampler sdar --temperature 1",
    ),
    Format(
        "SDAR-MoE",
        ("sdar_moe",),
        ("SDARMoeForCausalLM",),
        (".experts.0.gate_proj.weight", ".q_norm.weight"),
        (".q_proj.bias",),
        sdar_moe_config,
        llada_moe_names,
        block_key="block_size",
        mask=151669,
        sampled_by="--sampler sdar --temperature 1",
        is_checked=False,
    ),
    Format(
        "RND1",
        ("rnd1",),
        ("RND1LM", "RND1"),
        (".experts.0.gate_proj.weight", ".q_norm.weight"),
        (".q_proj.bias",),
        rnd1_config,
        llada_moe_names,
        mask=151669,
        is_checked=False,
    ),
    Format(
        "Dream in blocks",
        ("Dream",),
        ("DreamForCausalLM",),
        ("model.embed_tokens.weight", ".q_norm.weight"),
        (".q_proj.bias",),
        dream_blocks_config,
        stock_names,
        block_key="block_size",
        is_checked=False,
    ),
    Format(
        "Fast-dLLM v2",
        ("Fast_dLLM_Qwen",),
        ("Fast_dLLM_QwenForCausalLM",),
        ("model.embed_tokens.weight", ".q_proj.bias"),
        (".q_norm.weight",),
        fast_dllm_config,
        stock_names,
        block_key="bd_size",
        mask=151665,
        is_checked=False,
    ),
    Format(
        "A2D",
        ("a2d-llama", "a2d-qwen2", "a2d-qwen3"),
        ("A2DLlamaLMHeadModel", "A2DQwen2LMHeadModel", "A2DQwen3LMHeadModel"),
        ("model.embed_tokens.weight",),
        (),
        a2d_config,
        stock_names,
        owner_says=True,
    ),
    Format(
        "Open-dLLM",
        ("qwen2",),
        ("Qwen2ForCausalLM",),
        ("model.embed_tokens.weight", ".q_proj.bias"),
        (),
        dream_config,
        stock_names,
        asked_as="open-dllm",
    ),
    Format(
        "DiffuLLaMA",
        ("llama",),
        ("LlamaForCausalLM",),
        ("model.embed_tokens.weight", ".q_proj.weight"),
        (),
        diffullama_config,
        stock_names,
        asked_as="diffullama",
        is_checked=False,
    ),
)


class _Released(PreTrainedConfig):
    """Keeps nothing of what ``config.json`` says, which :class:`Values` reads; transformers would change some keys."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__()


def _register() -> None:
    """Make the model types known to transformers, so that a folder of one is checked like others and needs no code."""
    own = [name for one in FORMATS if one.asked_as is None for name in one.model_types]
    for kind in [*own, *REFUSED_TYPES]:
        AutoConfig.register(kind, type("Released", (_Released,), {"model_type": kind}), exist_ok=True)


_register()


def asked_for(model_type: str) -> Format | None:
    """The format that a folder of a causal LM of this model type may be of, though it does not say so."""
    return next((one for one in FORMATS if one.asked_as is not None and model_type in one.model_types), None)


def format_of(
    config: dict[str, Any], weights: Collection[str] | None, name: str, asked_as: str | None = None
) -> Format | None:
    """The released format of a model folder; None where it is none of them.

    Args:
        config: ``config.json``.
        weights: names of all weights; None where they are not known yet, and nothing is asked of them.
        name: what the user knows the model as.
        asked_as: the format that the user says it has; None: nothing.

    Raises:
        UserError: it is not what the user says; type, architecture and weights are not of one format.
    """
    kind, architectures = config.get("model_type"), architectures_of(config)
    of_class = set(architectures)
    some = [one for one in FORMATS if one.asked_as == asked_as]
    if not some:
        known = ", ".join(one.asked_as for one in FORMATS if one.asked_as is not None)
        raise UserError(f"--as must be {known}, got {asked_as!r}; all other formats are known by their folders")
    near = [one for one in some if kind in one.model_types or of_class & set(one.architectures)]
    if not near:
        if asked_as is not None:
            raise UserError(f"{name} has the model type {kind!r}, and no {some[0].title} has; leave out --as")
        return None
    exact = [one for one in near if kind in one.model_types and (not of_class or of_class & set(one.architectures))]
    if not exact:
        raise UserError(
            f"{name} has the model type {kind!r} and the architecture {', '.join(architectures)}, which are not of one "
            f"model; correct its config.json ({near[0].title}: {near[0].model_types[0]!r} and {near[0].architectures[0]!r})"
        )
    if weights is None:
        return exact[0]
    for one in exact:
        if one.lacks(weights) is None and one.exceeds(weights) is None:
            return one
    title = exact[0].title
    if (mark := exact[0].lacks(weights)) is not None:
        raise UserError(f"{name} says that it is a {title}, but none of its weights is a {mark}; give another")
    raise UserError(
        f"{name} says that it is a {title}, which has no weights {exact[0].exceeds(weights)}; this kind of {title} is not "
        "converted"
    )
