"""The configuration of a backbone: our sizes under the names that its family has for them."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ...errors import UserError, did_you_mean
from ..masked_diffusion.configuration_masked_diffusion import rows_before_positions
from ..options import ModelOptions
from .effects import refuse_without_effect

# What families call the width of their feed-forward layers.
_FEED_FORWARD = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "d_ff",
    "dff",
    "dim_ff",
    "ffn_hidden_size",
    "hidden_dim",
    "inner_dim",
)
# What turns on a loss within ``forward`` that no objective reads.
_ROUTER = frozenset({"output_router_logits", "router_aux_loss_coef", "aux_loss_coef"})
_TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def configured(
    options: ModelOptions, vocab_size: int, special_tokens: dict[str, Any], block_size: int
) -> PreTrainedConfig:
    """The backbone's configuration: our sizes under the names of its family, no dropout, then ``backbone_config``.

    Args:
        options: family, sizes and further keys.
        vocab_size: rows of the embedding matrix.
        special_tokens: ids by role, e.g. ``bos_token_id``.
        block_size: tokens that a sequence has in training.

    Raises:
        UserError: an unknown family or key, a value of the wrong type, sizes that do not fit together, that the family
            has no place for or that have no effect in it.
    """
    if options.backbone not in CONFIG_MAPPING:  # transformers' own and those that hf_difflm has registered
        raise UserError(
            f"backbone {options.backbone!r} is not a transformers model type"
            f"{did_you_mean(options.backbone, CONFIG_MAPPING)}"
        )
    if options.hidden_size % options.num_attention_heads:
        raise UserError(
            f"hidden_size {options.hidden_size} is not a multiple of num_attention_heads {options.num_attention_heads}"
        )
    longest = options.max_position_embeddings or max(block_size, 1024)
    if block_size > longest:
        raise UserError(
            f"block_size {block_size} is over the model's max_position_embeddings {longest}; lower one or raise the other"
        )
    known = AutoConfig.for_model(options.backbone)
    for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
        if not _is_settable(known, name):
            raise UserError(
                f"backbone {options.backbone!r} is no network over tokens that can be built in any size: its configuration "
                f"has no {name}; use another such as llama"
            )
    unused_rows = rows_before_positions(options.backbone, special_tokens.get("pad_token_id"))
    wanted: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": options.hidden_size,
        "num_hidden_layers": options.num_hidden_layers,
        "num_attention_heads": options.num_attention_heads,
        "num_key_value_heads": options.num_attention_heads,
        "head_dim": options.hidden_size // options.num_attention_heads,
        "max_position_embeddings": longest + unused_rows,
        **{name: 0.0 for name in vars(known) if "dropout" in name or name.endswith("pdrop")},
        **special_tokens,
    }
    # Families differ: GPT-2 has no head_dim, and calls its feed-forward width n_inner.
    wanted = {name: value for name, value in wanted.items() if name.endswith("_token_id") or _is_settable(known, name)}
    if hasattr(known, "qk_rope_head_dim"):
        wanted.pop("head_dim", None)  # there it is that of the rotated part alone
    wanted |= _feed_forward(options, known)
    for name in ("cls_token_id", "sep_token_id"):
        if hasattr(known, name):
            if _may_be_none(options.backbone, name):
                wanted[name] = None
            else:
                wanted[name] = special_tokens.get("bos_token_id" if name == "cls_token_id" else "eos_token_id")
    wanted.update(options.backbone_config)
    unknown = [name for name in options.backbone_config if not hasattr(known, name)]
    if unknown:
        raise UserError(
            f"backbone_config key {unknown[0]!r} is not one of {options.backbone}'s"
            f"{did_you_mean(unknown[0], vars(known))}"
        )
    for name in _ROUTER.intersection(options.backbone_config):
        raise UserError(
            f"backbone_config key {name!r} has no effect: training takes its loss from the objective; leave it out, or give "
            "the coefficient as router_aux_loss"
        )
    for name, value in options.backbone_config.items():
        _check_type(options.backbone, name, value, getattr(known, name))

    def make(**changes: Any) -> PreTrainedConfig:
        return AutoConfig.for_model(options.backbone, **{**wanted, **changes})

    try:
        config = make()
    except Exception as error:  # each family checks in its own way, and some only by failing
        raise UserError(
            f"backbone {options.backbone!r} refuses this configuration: {_said(error)}; check backbone_config and the sizes"
        ) from error
    if config.vocab_size < vocab_size:
        raise UserError(
            f"backbone_config key 'vocab_size' {config.vocab_size} is below the {vocab_size} tokens of the tokenizer; leave "
            "it out"
        )
    refuse_without_effect(options, _feed_forward_name(known), make)
    return config


def _is_settable(config: Any, name: str) -> bool:
    """Whether a family has a field, one for all layers, that it does not compute from others, as Falcon its head_dim."""
    field = getattr(type(config), name, None)
    if isinstance(field, property) and field.fset is None:
        return False
    try:
        return hasattr(config, name)
    except Exception:  # a field that differs from layer to layer
        return False


def _may_be_none(backbone: str, name: str) -> bool:
    try:
        AutoConfig.for_model(backbone, **{name: None})
    except Exception:  # each family checks in its own way
        return False
    return True


def _feed_forward(options: ModelOptions, known: Any) -> dict[str, Any]:
    """The width of the feed-forward layers under the family's own name; one that it leaves open stays so unless given."""
    name = _feed_forward_name(known)
    if name is None:
        if options.intermediate_size is not None:
            raise UserError(
                f"intermediate_size {options.intermediate_size} has no effect: backbone {options.backbone!r} has no such "
                "width; leave it out, or set the family's own fields in backbone_config"
            )
        return {}
    if getattr(known, name) is None:
        return {name: options.intermediate_size}
    return {name: options.intermediate_size or -(-options.hidden_size * 8 // 3 // 32) * 32}


def _feed_forward_name(known: Any) -> str | None:
    return next((name for name in _FEED_FORWARD if hasattr(known, name)), None)


def _check_type(backbone: str, name: str, value: Any, default: Any) -> None:
    """Refuse what is of another type than the family's default, where that tells a type."""
    if default is None or value is None or type(default) not in _TYPES:
        return
    fits = isinstance(value, (int, float) if type(default) is float else type(default))
    if isinstance(value, bool) is not isinstance(default, bool):
        fits = False
    elif type(default) in (int, list):  # some families take one number, or one for each layer
        fits = isinstance(value, (int, list))
    if not fits:
        raise UserError(
            f"backbone_config key {name!r} of {backbone} is {_TYPES[type(default)]} such as {_short(default)}, got "
            f"{_short(value)}"
        )


def _said(error: Exception) -> str:
    """What an exception says, on one line; the field is on a later line of transformers' own checks."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
