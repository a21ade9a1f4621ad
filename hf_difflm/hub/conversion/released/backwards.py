"""A masked diffusion model as LLaDA's, Dream's or SDAR's own loaders read it, or llama.cpp's: the way back."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....evaluation.targets import find_weights
from ....models import MaskedDiffusionConfig
from ....models.adapters.folders import AVERAGES, is_adapter_folder
from ....models.file_names import BESIDE, CONFIG, GENERATION
from ....models.loading import is_denoiser, load_config
from ...weights import copy_model, write_merged
from .formats import FORMATS, Format
from .gguf import check_gguf, write_gguf
from .reading import ends_of, our_shapes
from .tensors import Stored, stored_tensors, write_tensors
from .tokenizers import has_tokenizer
from .whole import all_or_nothing

_NOT_THEIRS = (GENERATION, "importance.safetensors")
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclass(frozen=True)
class GivenBack:
    """What :func:`give_back` made.

    Attributes:
        folder: the new one.
        format: whose it is.
        model_type, architecture: as its ``config.json`` says.
        parameters: how many there are.
    """

    folder: Path
    format: str
    model_type: str
    architecture: str
    parameters: int


def give_back(
    source: str, output_dir: Path, to: str, revision: str | None = None, *, no_tokenizer: bool = False
) -> GivenBack:
    """Write a masked diffusion model in a format of others, with the weights as they are stored.

    Args:
        source: a run, a checkpoint, a model folder, an adapter (it is merged), or ``OWNER/NAME`` on the Hub.
        output_dir: folder to write, missing or empty.
        to: ``llada``, ``dream``, ``sdar`` or ``gguf``.
        revision: branch, tag or commit on the Hub.
        no_tokenizer: write none.

    Raises:
        UserError: no such source or format, no masked diffusion model, or one that the format has no words for.
    """
    if to not in WRITTEN:
        raise UserError(f"--to must be one of {', '.join(WRITTEN)}, got {to!r}")
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"{output_dir} exists and is not empty; give another --output-dir, or remove it")
    found = find_weights(source, revision)
    config: Any = load_config(found.folder, found.name)
    if not is_denoiser(config):
        raise UserError(f"{found.name} is no masked diffusion model; --to is for these (`hf-difflm convert` makes one)")
    kind = next((one for one in FORMATS if to in _WRITERS and one.title == _WRITERS[to].title), None)
    if kind is None:
        architecture, theirs = check_gguf(config, found.name), {}
    else:
        theirs = _WRITERS[to].config(_Ours(config, found.name, kind.title))
        architecture = kind.architectures[0]
    with _plain(found.folder) as folder, all_or_nothing(output_dir) as whole:
        stored, shapes = stored_tensors(folder, found.name), our_shapes(config, found.name)
        if problem := sorted(set(shapes) ^ set(stored)):
            raise UserError(
                f"{found.name} lacks the weights {problem[0]}, or has no place for them; take another checkpoint"
            )
        words = not no_tokenizer and has_tokenizer(folder)
        if kind is None:
            write_gguf(config, stored, folder if words else None, whole, found.name)
        else:
            write_tensors({kind.names(config, ours)[0]: (shapes[ours], [stored[ours]]) for ours in stored}, whole)
            _write_configuration(theirs, kind, config, stored, whole, ends_of(folder, found.name))
            for name in BESIDE if words else ():
                if name not in _NOT_THEIRS and (folder / name).is_file():
                    shutil.copyfile(folder / name, whole / name)
        numbers = sum(part.bytes // _BYTES[part.dtype] for part in stored.values())
    return GivenBack(
        output_dir,
        "GGUF" if kind is None else kind.title,
        kind.model_types[0] if kind else architecture,
        architecture,
        numbers,
    )


def _write_configuration(
    theirs: dict[str, Any],
    kind: Format,
    config: MaskedDiffusionConfig,
    stored: dict[str, Stored],
    folder: Path,
    ends: dict[str, Any],
) -> None:
    special = {role: getattr(config, role) for role in ("bos_token_id", "eos_token_id", "pad_token_id")}
    theirs = theirs | {
        "model_type": kind.model_types[0],
        "architectures": list(kind.architectures),
        "torch_dtype": _DTYPES.get(stored["backbone.embed_tokens.weight"].dtype, "float32"),
        **special,
    }
    _write_json(theirs, folder / CONFIG)
    # DreamModel.from_pretrained asks for one.
    _write_json(special | {"mask_token_id": theirs["mask_token_id"]} | ends, folder / GENERATION)


_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class _Ours:
    """A denoiser's configuration, with sentences for what the other format cannot say."""

    def __init__(self, config: MaskedDiffusionConfig, name: str, title: str):
        self.config, self.backbone, self.name, self.title = config, config.backbone_config, name, title

    def only(self, what: str, value: Any, *values: Any) -> None:
        """Refuse all values but these, of which the first is named."""
        if value not in values:
            raise UserError(
                f"{self.name} has {what} {value!r}, but a {self.title} has {values[0]!r}; it cannot be given back so"
            )

    def common(self, model_type: str) -> None:
        self.only("the backbone", self.backbone.model_type, model_type)
        self.only("the activation", self.backbone.hidden_act, "silu")
        self.only("diffusion_block_start", self.config.diffusion_block_start, "text")
        self.only("a bias in the head:", bool(self.config.head_bias), False)
        if model_type != "llama":
            self.only("rotate_in_float32", self.config.rotate_in_float32, False)
            self.only("use_sliding_window", bool(self.backbone.use_sliding_window), False)

    def rotation(self) -> dict[str, Any]:
        """``rope_theta`` and ``rope_scaling``, as transformers 4 has them."""
        found = dict(self.backbone.rope_parameters)
        theta = found.pop("rope_theta")
        return {"rope_theta": theta, "rope_scaling": None if found.get("rope_type") == "default" else found}

    def stock(self) -> dict[str, Any]:
        """The keys that Dream and SDAR have as Qwen has them."""
        sizes = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "hidden_act",
            "max_position_embeddings",
            "rms_norm_eps",
            "initializer_range",
        )
        return {
            **{key: getattr(self.backbone, key) for key in sizes},
            **self.rotation(),
            "attention_dropout": 0.0,
            "mask_token_id": self.config.mask_token_id,
            "max_window_layers": self.backbone.num_hidden_layers,
            "sliding_window": None,
            "tie_word_embeddings": self.config.tie_word_embeddings,
            "use_cache": False,
            "use_sliding_window": False,
        }


def _llada(ours: _Ours) -> dict[str, Any]:
    """Every key of LLaDA's class, whose defaults are those of another model."""
    ours.common("llama")
    config, backbone = ours.config, ours.backbone
    ours.only("shift_logits", config.shift_logits, False)
    ours.only("diffusion_block_size", config.diffusion_block_size, None)
    ours.only("attention_bias", backbone.attention_bias, False)
    ours.only("mlp_bias", backbone.mlp_bias, False)
    rotation = ours.rotation()
    ours.only("rope_scaling", rotation["rope_scaling"], None)
    heads, width = backbone.num_attention_heads, backbone.hidden_size
    ours.only("heads of the width", backbone.head_dim, width // heads)
    return {
        "d_model": width,
        "n_heads": heads,
        "n_kv_heads": backbone.num_key_value_heads,
        "n_layers": backbone.num_hidden_layers,
        "mlp_ratio": 4,
        "mlp_hidden_size": backbone.intermediate_size,
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "alibi": False,
        "alibi_bias_max": 8.0,
        "rope": True,
        "rope_full_precision": config.rotate_in_float32,
        "rope_theta": rotation["rope_theta"],
        "flash_attention": False,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "multi_query_attention": None,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "rms_norm_eps": backbone.rms_norm_eps,
        "bias_for_layer_norm": False,
        "max_sequence_length": backbone.max_position_embeddings,
        "include_bias": False,
        "include_qkv_bias": False,
        "scale_logits": False,
        "vocab_size": backbone.vocab_size,
        "embedding_size": backbone.vocab_size,
        "weight_tying": config.tie_word_embeddings,
        "mask_token_id": config.mask_token_id,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "init_cutoff_factor": None,
        "precision": None,
        "use_cache": False,
    }


def _dream(ours: _Ours) -> dict[str, Any]:
    ours.common("qwen2")
    ours.only("shift_logits", ours.config.shift_logits, True)
    ours.only("diffusion_block_size", ours.config.diffusion_block_size, None)
    ours.only(
        "heads of the width",
        getattr(ours.backbone, "head_dim", None),
        ours.backbone.hidden_size // ours.backbone.num_attention_heads,
        None,
    )
    return ours.stock()


def _sdar(ours: _Ours) -> dict[str, Any]:
    ours.common("qwen3")
    ours.only("shift_logits", ours.config.shift_logits, False)
    if ours.config.diffusion_block_size is None:
        raise UserError(f"{ours.name} has no diffusion blocks, but a SDAR has; it cannot be given back so")
    return ours.stock() | {
        "block_size": ours.config.diffusion_block_size,
        "head_dim": ours.backbone.head_dim,
        "attention_bias": ours.backbone.attention_bias,
        "fuse_cross_entropy": False,
        "debug": False,
    }


@dataclass(frozen=True)
class _Writer:
    title: str
    config: Callable[[_Ours], dict[str, Any]]


_WRITERS = {"llada": _Writer("LLaDA", _llada), "dream": _Writer("Dream", _dream), "sdar": _Writer("SDAR", _sdar)}
WRITTEN = (*_WRITERS, "gguf")
"""The formats that there is a way back to."""


@contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    """The folder, or a copy of it in which the adapter is merged or the average stands for the raw weights."""
    if not is_adapter_folder(folder) and not (folder / AVERAGES).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        if is_adapter_folder(folder):
            write_merged(folder, Path(place))
        else:
            copy_model(folder, Path(place), folder / AVERAGES)
        yield Path(place)


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
