"""A tiny copy of a configuration: a few widths, at least two layers of each kind, nothing else changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

VOCABULARY = 64
FIRST_TOKEN = 8  # the ids below are left to special tokens
WIDTH = 32  # of two heads
_HEAD = WIDTH // 2
WINDOWS = (8, 16)  # in tokens: what a reach grows with is seen in two of them
_WINDOW = re.compile(r"window|attention_chunk_size|^local_attention$")
_NO_WINDOW = re.compile(r"^use_|layers$|num_|pattern")
# Where a list, an interval or a first and last layer says what each layer is; the depth stays there.
_PATTERN = re.compile(
    r"period|offset|interval|frequency|_freq$|first_k|_idx|indices|layer_ids|sparse_step|_types|_layers$"
)
# Widths that are no multiple of the model's own, by name: they are what they are in no relation to others.
_SMALL = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "mamba_d_state": 8,
    "ssm_state_size": 8,
    "state_size": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "intermediate_size_mlp": 64,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "adapter_rank": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_ssm": 64,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_headdim": 16,
    "n_mamba_heads": 4,
    "mamba_n_groups": 1,
    "mamba_ngroups": 1,
    "n_groups": 1,
    "time_step_rank": 4,
    "mamba_dt_rank": 4,
    "relation_attn_hidden": 8,
}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_k",
    "moe_topk",
    "top_k_experts",
    "num_selected_experts",
    "moe_top_k",
    "top_k",
)
_GROUPS = ("n_group", "num_expert_group", "topk_group")
_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head")


@dataclass(frozen=True)
class Tiny:
    """A tiny copy.

    Attributes:
        config: the configuration.
        real_layers: for each of its layers, the layers of the real network that it stands for.
        windows: tokens of the real network's windows, by name; in ``config`` they are ``window``.
    """

    config: Any
    real_layers: list[list[int]]
    windows: dict[str, int]


def tiny_copies(config: Any, window: int) -> Iterator[Tiny]:
    """Yield copies of a configuration, the smallest first: a family may have rules that one of them breaks.

    Args:
        config: of a backbone.
        window: tokens that a copy's attention windows have.
    """
    known = config.to_dict()
    depth = depth_of(config)
    windows = {name: width for name, value in known.items() if (width := _window(name, value, config)) is not None}
    # A scan fills its last chunk up: with chunks of the real length it would be of zeros.
    chunks = {"mamba_chunk_size": 16} if type(known.get("mamba_chunk_size")) is int else {}
    common = {**_vocabulary(known), **_experts(known), **chunks}
    few, layers = _fewer_layers(config, known, depth)
    whole = [[layer] for layer in range(depth)]
    seen = []
    for changes, real_layers in (
        ({**_widths(config, known), **few}, layers),
        ({**_widths(config, known)}, whole),
        (few, layers),
        ({}, whole),
    ):
        changes = {**common, **changes, **{name: window for name in windows}}
        if changes in seen:
            continue
        seen.append(changes)
        try:
            copied = _copy(config, known, changes)
        except Exception:  # a family's own checks raise what they like; the next copy changes less
            continue
        yield Tiny(copied, real_layers, windows)


def field_of(config: Any, name: str) -> Any:
    """A field of a configuration; None where it has none, or one that differs from layer to layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # some families raise more than an AttributeError
        return None


def depth_of(config: Any) -> int:
    """Layers of a backbone; 0 where its configuration does not say."""
    depth = field_of(config, "num_hidden_layers")
    return depth if isinstance(depth, int) else 0


def _copy(config: Any, known: dict[str, Any], changes: dict[str, Any]) -> Any:
    names = {**known, **changes}
    for name in ("transformers_version", "model_type", "architectures", "dtype", "torch_dtype", "_name_or_path"):
        names.pop(name, None)
    copied = type(config)(**names)
    if hasattr(config, "is_causal"):
        copied.is_causal = config.is_causal
    return copied


def _window(name: str, value: Any, config: Any) -> int | None:
    """The tokens of an attention window; None where a field is something else."""
    if not _WINDOW.search(name) or _NO_WINDOW.search(name):
        return None
    if isinstance(value, list) and value and all(type(width) is int for width in value):
        value = value[0] if len(set(value)) == 1 else None
    if type(value) is not int or value < 2 or getattr(config, "use_sliding_window", None) is False:
        return None
    return value


def _vocabulary(known: dict[str, Any]) -> dict[str, Any]:
    """A small vocabulary, with special tokens inside it."""
    changes: dict[str, Any] = {}
    roles = [name for name, value in known.items() if name.endswith("token_id") and value is not None]
    for place, name in enumerate(roles):
        changes[name] = 1 + place % (FIRST_TOKEN - 1)
    for name in ("vocab_size", "padded_vocab_size"):
        if isinstance(known.get(name), int):
            changes[name] = VOCABULARY
    if isinstance(known.get("vocab_size_per_layer_input"), int):
        changes["vocab_size_per_layer_input"] = VOCABULARY
    return changes


def _experts(known: dict[str, Any]) -> dict[str, Any]:
    """Four experts of which two are chosen; groups of experts become one."""
    changes: dict[str, Any] = {name: 4 for name in _EXPERTS if type(known.get(name)) is int and known[name] > 4}
    if not changes:
        return {}
    changes |= {name: 2 for name in _CHOSEN if type(known.get(name)) is int and known[name] > 2}
    return changes | {name: 1 for name in _GROUPS if type(known.get(name)) is int}


def _widths(config: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Few widths: two heads of 16; what is a multiple of the model's width stays that multiple."""
    width = field_of(config, "hidden_size")
    if type(width) is not int or width <= WIDTH:
        return {}
    changes: dict[str, Any] = {}
    for name, value in known.items():
        if type(value) is not int or name in _vocabulary(known):
            continue
        if name in _SMALL:
            changes[name] = min(value, _SMALL[name])
        elif name == "chunk_size" and known.keys() & {"state_size", "ssm_state_size", "mamba_d_state"}:
            changes[name] = min(value, 16)  # of a scan's parts, which are filled up to whole ones
        elif re.search("position|vocab|chunk_size", name):
            continue
        elif "intermediate_size" in name or name in ("ffn_dim", "d_ff", "n_inner"):
            changes[name] = min(value, 2 * WIDTH)
        elif value >= width and value % width == 0 and re.search("size|dim|width|embd|model|channels|hidden", name):
            changes[name] = value // width * WIDTH
        elif name == "head_dim" or name.endswith("attention_head_dim"):
            changes[name] = _HEAD
    if "qk_rope_head_dim" in changes:  # of which these are made
        rotated = changes["qk_rope_head_dim"]
        parts = {"head_dim": rotated, "qk_head_dim": rotated + changes.get("qk_nope_head_dim", 0)}
        changes |= {name: width for name, width in parts.items() if name in known}
    heads = field_of(config, "num_attention_heads")
    if type(heads) is int:
        for name, value in known.items():
            if name in _HEADS and type(value) is int:
                changes[name] = 2
            elif "key_value_heads" in name and type(value) is int:
                changes[name] = 2 if value == heads else 1
    return changes


def _fewer_layers(config: Any, known: dict[str, Any], depth: int) -> tuple[dict[str, Any], list[list[int]]]:
    """Two layers of each kind, and which real layers each stands for; all of them where a rule says what they are."""
    everything = [[layer] for layer in range(depth)]
    if depth <= 2:
        return {}, everything
    lists = {name: value for name, value in known.items() if isinstance(value, list) and len(value) == depth}
    named = {name for name, value in known.items() if _PATTERN.search(name) and value not in (None, [], 0)}
    number = next((name for name in _depth_names(config) if type(known.get(name)) is int), None)
    if named - set(lists) - set(_depth_names(config)) or number is None:
        return {}, everything
    kinds = [tuple(str(value[layer]) for value in lists.values()) for layer in range(depth)]
    chosen: list[int] = []
    for kind in dict.fromkeys(kinds):
        chosen += [layer for layer in range(depth) if kinds[layer] == kind][:2]
    chosen.sort()
    stands_for: list[list[int]] = [[layer] for layer in chosen]
    for layer in set(range(depth)) - set(chosen):
        last = max(place for place, one in enumerate(chosen) if kinds[one] == kinds[layer])
        stands_for[last].append(layer)
    changes = {name: [value[layer] for layer in chosen] for name, value in lists.items()}
    return {number: len(chosen), **changes}, [sorted(layers) for layers in stands_for]


def _depth_names(config: Any) -> list[str]:
    own = getattr(config, "attribute_map", {}).get("num_hidden_layers")
    return ["num_hidden_layers", *([own] if own else [])]
