"""A masked diffusion model as a GGUF file, as llama.cpp's ``llada`` (Llama) and ``dream`` (Qwen2) have them.

What llama.cpp would take for granted is written: that the network is not causal, whether it shifts (without the key it does),
and the mask. Its ``llada`` rotates neighbouring numbers where transformers rotates halves, so rows of queries and keys change
places.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from ....errors import UserError
from ....models import MaskedDiffusionConfig
from .tensors import Stored

FILE = "model.gguf"
_ARCHITECTURES = {"llama": "llada", "qwen2": "dream"}
# Patterns that split text before the merges of a tokenizer, which differ in how many digits stand together, and what
# llama.cpp calls them.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITTING = {
    _PATTERN.replace("DIGITS", r"\p{N}"): "qwen2",
    _PATTERN.replace("DIGITS", r"\p{N}{1,3}"): "llama-bpe",
}


def check_gguf(config: MaskedDiffusionConfig, name: str) -> str:
    """The architecture of llama.cpp that a denoiser is.

    Args:
        config: of the denoiser.
        name: what the user knows it as.

    Raises:
        UserError: there is none; the package gguf is missing.
    """
    backbone = config.backbone_config
    if backbone.model_type not in _ARCHITECTURES:
        raise UserError(
            f"{name} is a {backbone.model_type}, but GGUF files are written of llama and qwen2; leave it as it is"
        )
    plain = {
        "diffusion_block_size": config.diffusion_block_size is None,
        "head_bias": not config.head_bias,
        "hidden_act": backbone.hidden_act == "silu",
        "head_dim": getattr(backbone, "head_dim", None) in (None, backbone.hidden_size // backbone.num_attention_heads),
        "attention_bias": not getattr(backbone, "attention_bias", False),
        "mlp_bias": not getattr(backbone, "mlp_bias", False),
        "use_sliding_window": not getattr(backbone, "use_sliding_window", False),
        "rope_parameters": backbone.rope_parameters.get("rope_type") == "default",
    }
    for key, fits in plain.items():
        if not fits:
            value = getattr(config, key, None) if key in config.to_dict() else getattr(backbone, key)
            raise UserError(
                f"{name} has {key} {value!r}, which llama.cpp's {_ARCHITECTURES[backbone.model_type]} has not"
            )
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError("--to gguf needs the package gguf; install it (pip install gguf)") from error
    return _ARCHITECTURES[backbone.model_type]


def write_gguf(
    config: MaskedDiffusionConfig, stored: dict[str, Stored], tokenizer: Path | None, target: Path, name: str
) -> None:
    """Write the file, one weight at a time; vectors in float32, matrices as they are stored.

    Args:
        config: of a denoiser that :func:`check_gguf` takes.
        stored: its weights.
        tokenizer: folder of its tokenizer; None: the file has no words.
        target: the folder to write into.
        name: what the user knows it as.

    Raises:
        UserError: a tokenizer that splits text in a way without a name here.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, get_tensor_name_map
    from gguf.constants import MODEL_ARCH

    backbone, architecture = config.backbone_config, check_gguf(config, name)
    words = None if tokenizer is None else _words(tokenizer, backbone.vocab_size, name)
    writer = GGUFWriter(target / FILE, architecture)
    writer.add_name(Path(name).name)
    writer.add_block_count(backbone.num_hidden_layers)
    writer.add_context_length(backbone.max_position_embeddings)
    writer.add_embedding_length(backbone.hidden_size)
    writer.add_feed_forward_length(backbone.intermediate_size)
    writer.add_head_count(backbone.num_attention_heads)
    writer.add_head_count_kv(backbone.num_key_value_heads)
    writer.add_rope_freq_base(backbone.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(backbone.hidden_size // backbone.num_attention_heads)
    writer.add_layer_norm_rms_eps(backbone.rms_norm_eps)
    writer.add_vocab_size(backbone.vocab_size)
    writer.add_causal_attention(False)
    writer.add_diffusion_shift_logits(bool(config.shift_logits))
    _add_words(writer, words, config)
    kinds = {"F32": GGMLQuantizationType.F32, "F16": GGMLQuantizationType.F16, "BF16": GGMLQuantizationType.BF16}
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], backbone.num_hidden_layers)
    placed = {}
    for ours, tensor in stored.items():
        theirs = names.get_name(ours.replace("backbone.", "model.", 1), try_suffixes=(".weight", ".bias"))
        if theirs is None or tensor.dtype not in kinds:
            raise UserError(f"{name} has the weights {ours} in {tensor.dtype}, for which a GGUF file has no place")
        placed[theirs] = ours
        kind = GGMLQuantizationType.F32 if len(tensor.shape) == 1 else kinds[tensor.dtype]
        width = 4 if len(tensor.shape) == 1 else tensor.bytes // int(np.prod(tensor.shape))
        size = int(np.prod(tensor.shape)) * width
        writer.add_tensor_info(
            theirs, (*tensor.shape[:-1], tensor.shape[-1] * width), np.dtype(np.uint8), size, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    heads = {"q_proj": backbone.num_attention_heads, "k_proj": backbone.num_key_value_heads}
    for ours in placed.values():
        values = _read(stored[ours])
        part = next((part for part in heads if f".{part}." in ours), None)
        if architecture == "llada" and part is not None:
            values = _neighbours(values, heads[part])
        writer.write_tensor_data(np.ascontiguousarray(values).view(np.uint8))
    writer.close()


def _read(tensor: Stored) -> np.ndarray:
    """The numbers of a weight; bfloat16 as the 16 bits they are, and vectors in float32."""
    kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tensor.dtype]
    found = np.fromfile(tensor.file, kind, tensor.bytes // kind().itemsize, offset=tensor.start).reshape(tensor.shape)
    if len(tensor.shape) > 1:
        return found
    if tensor.dtype == "BF16":
        return (found.astype(np.uint32) << 16).view(np.float32)
    return found.astype(np.float32)


def _neighbours(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head in the order in which the two that rotate together stand side by side."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _words(folder: Path, rows: int, name: str) -> dict[str, Any]:
    from gguf import TokenType

    words = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    backend = json.loads(words.backend_tokenizer.to_str())
    vocabulary = {number: token for token, number in words.get_vocab().items()}
    special = {number: token.special for number, token in words.added_tokens_decoder.items()}
    tokens, kinds = [], []
    for number in range(rows):
        tokens.append(vocabulary.get(number, f"[PAD{number}]"))
        kind = TokenType.NORMAL if number in vocabulary else TokenType.UNUSED
        if number in special:
            kind = TokenType.CONTROL if special[number] else TokenType.USER_DEFINED
        kinds.append(kind)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in backend["model"].get("merges", [])]
    return {
        "tokens": tokens,
        "kinds": kinds,
        "merges": merges,
        "splitting": _splitting(backend, bool(merges), name),
    } | {role: getattr(words, role) for role in ("bos_token_id", "eos_token_id", "pad_token_id", "chat_template")}


def _splitting(backend: dict[str, Any], merges: bool, name: str) -> str:
    if backend["model"].get("type") != "BPE":
        raise UserError(f"the tokenizer of {name} is no BPE; convert it for ids only (--no-tokenizer)")
    if not merges:
        return "gpt-2"  # single characters, wherever text is split
    parts = backend.get("pre_tokenizer") or {}
    parts = parts.get("pretokenizers", [parts])
    patterns = [part["pattern"].get("Regex") for part in parts if part.get("type") == "Split"]
    if len(patterns) == 1 and patterns[0] in _SPLITTING:
        return _SPLITTING[patterns[0]]
    if not patterns and any(part.get("type") == "ByteLevel" and part.get("use_regex", True) for part in parts):
        return "gpt-2"
    raise UserError(
        f"the tokenizer of {name} splits text in a way that has no name of llama.cpp here; write the file for ids only "
        "(--no-tokenizer), and add its words with llama.cpp's own scripts"
    )


def _add_words(writer: Any, words: dict[str, Any] | None, config: MaskedDiffusionConfig) -> None:
    writer.add_tokenizer_model("no_vocab" if words is None else "gpt2")
    writer.add_mask_token_id(config.mask_token_id)
    if words is None:
        return
    writer.add_tokenizer_pre(words["splitting"])
    writer.add_token_list(words["tokens"])
    writer.add_token_types(words["kinds"])
    writer.add_token_merges(words["merges"])
    for role, add in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("pad_token_id", writer.add_pad_token_id),
        ("chat_template", writer.add_chat_template),
    ):
        if words[role] is not None:
            add(words[role])
