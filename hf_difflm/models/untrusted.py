"""A model folder that somebody else may have written: what in it could run code or read other files is refused.

Weights come from safetensors alone, and code from hf_difflm and transformers alone: a repository's own Python files are
never downloaded, and no file of it names another one outside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import CONFIG_MAPPING

from .. import models
from ..compat import networks_run
from ..errors import UserError
from . import register_auto_classes
from .adapters.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter_folder
from .file_names import CONFIG, INDEX, PICKLES, TOKENIZER_CONFIG, WEIGHTS

_SHARD = re.compile(r"[\w.-]+\.safetensors")
CONVERT_FIRST = "make a masked diffusion model of it first (`hf-difflm convert`)"
"""What to do with a model that is none, in the sentences that refuse one."""
CONVERTED = {
    "mdlm": "MDLM",
    "llada": "LLaDA",
    "lladamoe": "LLaDA-MoE",
    "Dream": "Dream",
    "sdar": "SDAR",
    "sdar_moe": "SDAR-MoE",
    "rnd1": "RND1",
    "Fast_dLLM_Qwen": "Fast-dLLM v2",
    "a2d-llama": "A2D",
    "a2d-qwen2": "A2D",
    "a2d-qwen3": "A2D",
}
"""Model types that `hf-difflm convert` alone reads, and what people call them."""
# Keys of a tokenizer's configuration whose text is opened as a file.
_FILE_KEY = re.compile(r"(.*_files?|vocab|merges)")


def refuse_names(names: Iterable[str], name: str) -> None:
    """Refuse paths that lead out of the folder they are in.

    Args:
        names: paths of a repository's files.
        name: the repository, for the sentence.

    Raises:
        UserError: one is absolute, has ``..`` in it, or a backslash.
    """
    for path in names:
        if _leads_out(path):
            raise UserError(f"{name} is not loaded: its file name {path!r} leads out of its folder; take another model")


def refuse_unsafe(folder: Path, name: str, listed: Iterable[str] | None = None) -> None:
    """Check a model folder before anything in it is loaded.

    Args:
        folder: with ``config.json``; or of an adapter, whose network is another.
        name: what the user knows it as, for the sentence.
        listed: names of all files there are, where the folder has only some of them, but the configurations; default: those
            in the folder.

    Raises:
        UserError: it holds an adapter beside a network; its weights are pickles or missing; it needs code of its own, or an
            attention kernel from the Hub; a file in it names another outside it; it was written by a later version; it is no
            JSON.
    """
    present = {path.name for path in folder.iterdir()} if listed is None else set(listed)
    if is_adapter_folder(folder):
        if ADAPTER_WEIGHTS not in present:
            raise UserError(f"{name} holds no {ADAPTER_WEIGHTS}; give an adapter whose weights are safetensors")
        _refuse_tokenizer(folder, name)
        return
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(
            f"{name} holds a network and an adapter ({ADAPTER_CONFIG}), of which transformers would load a part; move one of "
            "them to a folder of its own"
        )
    if networks_run():
        register_auto_classes()  # our own model types are known, too
    config = _json(folder / CONFIG, name)
    _refuse_code(config, name)
    _refuse_kernels(config, name)
    _refuse_later(config, name)
    _refuse_pickles(name, present)
    _check_shards(folder, name, config, present)
    _refuse_tokenizer(folder, name)


def _refuse_tokenizer(folder: Path, name: str) -> None:
    if (folder / TOKENIZER_CONFIG).exists():
        _check_tokenizer(_json(folder / TOKENIZER_CONFIG, name), name)


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{name} holds no {path.name}, so it is no model; give another") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} of {name} cannot be read ({error}); give another model") from error
    if not isinstance(value, dict):
        raise UserError(f"{path.name} of {name} is no JSON object; give another model")
    return value


def _refuse_code(config: dict[str, Any], name: str) -> None:
    kind = config.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    if not known and isinstance(kind, str) and kind in CONVERTED:
        raise UserError(f"{name} is a published {CONVERTED[kind]} checkpoint, which no code here runs; {CONVERT_FIRST}")
    inner = any("auto_map" in part for part in _mappings(list(config.values())))
    if inner or ("auto_map" in config and not known):
        said = config.get("architectures")
        names = [str(one) for one in said] if isinstance(said, list) and said else []
        what = f"{', '.join(names)} ({kind!r})" if names else repr(kind)
        raise UserError(
            f"{name} is a {what} and needs code of its own to load (auto_map in its {CONFIG}), which hf_difflm never runs; "
            "take a model of an architecture that transformers has"
        )
    if not known:
        raise UserError(
            f"{name} has the model type {kind!r}, which neither hf_difflm nor this transformers knows; update them, or take "
            "another model"
        )


def _refuse_kernels(config: dict[str, Any], name: str) -> None:
    """transformers takes an implementation with a slash in its name for code on the Hub."""
    for part in _mappings([config]):
        for key, value in part.items():
            if key.lstrip("_").startswith(("attn_implementation", "experts_implementation")) and "/" in str(value):
                raise UserError(
                    f"{name} asks for the kernel {value!r} from the Hub ({key} in its {CONFIG}), which is code that hf_difflm"
                    " never runs; take another model, or remove that line"
                )


def _refuse_later(config: dict[str, Any], name: str) -> None:
    if config["model_type"] != "masked_diffusion":
        return
    version, ours = config.get("format_version", 1), models.MaskedDiffusionConfig.format_version
    if not isinstance(version, int) or version > ours:
        raise UserError(f"{name} has format version {version!r}, but this hf_difflm knows {ours} at most; update it")


def _refuse_pickles(name: str, present: Collection[str]) -> None:
    if WEIGHTS in present or INDEX in present:
        return
    pickles = sorted(file for file in present if file.endswith(PICKLES) and "/" not in file)
    pickles.sort(key=lambda file: not file.startswith(("pytorch_model", "model")))
    if pickles:
        raise UserError(
            f"{name} has its weights as a pickle ({pickles[0]}), which can run any code when it is loaded, and not as "
            "safetensors; take a model with model.safetensors, or convert it where you trust it"
        )
    raise UserError(f"{name} holds no weights ({WEIGHTS}); give another model")


def _check_shards(folder: Path, name: str, config: dict[str, Any], present: Collection[str]) -> None:
    explicit = config.get("transformers_weights")  # names the file of the weights
    if explicit is not None:
        raise UserError(
            f"{name} names its weights {str(explicit)!r} (transformers_weights in its {CONFIG}), which hf_difflm does not "
            f"follow; save them as {WEIGHTS}"
        )
    if WEIGHTS in present:
        return
    places = _json(folder / INDEX, name).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{INDEX} of {name} has no weight_map; give another model")
    for file in sorted({str(value) for value in places.values()}):
        if not _SHARD.fullmatch(file):
            raise UserError(
                f"{name} is not loaded: {INDEX} names the file {file!r}, which is no safetensors file of its own folder; "
                "take another model"
            )
        if file not in present:
            raise UserError(f"{name} lacks {file}, a part of its weights; give another model, or download it again")


def _check_tokenizer(config: dict[str, Any], name: str) -> None:
    for key, value in config.items():
        if not _FILE_KEY.fullmatch(key):
            continue
        for file in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            # What a library once wrote about its cache on another machine leads nowhere.
            left_over = PurePosixPath(str(file)).is_absolute() and not Path(str(file)).exists()
            if isinstance(file, str) and _leads_out(file) and not left_over:
                raise UserError(
                    f"{name} is not loaded: {key} in its {TOKENIZER_CONFIG} names the file {file!r} outside its folder; take "
                    "another model, or remove that line"
                )


def _leads_out(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path or "\0" in path


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings within a JSON value."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending += part.values()
        elif isinstance(part, list):
            pending += part
