"""A folder of a released model as a masked diffusion model: its weights under our names, copied as bytes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ....data import load_tokenizer
from ....errors import UserError, first_line
from ....models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM, MaskedDiffusionGenerationConfig
from ....models.adapters.folders import is_adapter_folder
from ....models.backbones.check import check_backbone
from ....models.backbones.verdict import Verdict
from ....models.file_names import CONFIG, GENERATION, INDEX
from ....models.masked_diffusion.generation_configuration import NEW_TOKENS
from ....models.untrusted import refuse_unsafe
from .formats import Format, format_of
from .refused import architectures_of, refuse_by_name, refuse_by_weights
from .tensors import Stored, joined, stored_tensors, write_tensors
from .tokenizers import tokenizer_source
from .values import Values

_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")
_COMPUTED = "rotary_emb.inv_freq"  # follows from the sizes
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


@dataclass(frozen=True)
class Released:
    """A folder of a released model, read but for its weights.

    Attributes:
        format: of the folder.
        values: of its ``config.json``.
        tensors: of its files.
        name: what the user knows it as.
        ends: ``eos_token_id`` of its ``generation_config.json``, where it has one: a chat model ends at more tokens than its
            configuration says.
    """

    format: Format
    values: Values
    tensors: dict[str, Stored]
    name: str
    ends: dict[str, Any] = field(default_factory=dict)


def released_in(folder: Path, name: str, asked_as: str | None = None) -> Released | None:
    """The released model in a folder; None where it holds another kind of model.

    Args:
        folder: a model folder.
        name: what the user knows it as.
        asked_as: the format that the user says it has, where the folder cannot.

    Raises:
        UserError: see :func:`~.formats.format_of`; it cannot be trusted, is damaged or quantised, or one of those that are
            not converted.
    """
    if is_adapter_folder(folder):
        if asked_as is not None:
            raise UserError(f"{name} is an adapter, and --as is for the folder of a whole model; leave it out")
        return None
    config = _config(folder)
    refuse_by_name(config, name)  # the reason, rather than that nobody knows it
    refuse_unsafe(folder, name)
    tensors = stored_tensors(folder, name)
    refuse_by_weights(tensors, name)
    found = format_of(config, tensors, name, asked_as)
    if found is None:
        return None
    _refuse_quantised(config, name)
    return Released(found, Values(config, name), tensors, name, ends_of(folder, name))


def refuse_first(folder: Path, name: str, asked_as: str | None = None) -> Format | None:
    """The format of a released model before its weights are there; None where it is another kind of model.

    It refuses what :func:`released_in` and :func:`denoiser_config` would, as far as the configurations
    alone say it.

    Args:
        folder: with ``config.json``, and the index of the weights, where they are in several files.
        name, asked_as: see :func:`released_in`.

    Raises:
        UserError: see there.
    """
    if is_adapter_folder(folder):
        return None
    config = _config(folder)
    refuse_by_name(config, name)
    weights = None
    if (folder / INDEX).exists():  # checked by `refuse_unsafe`
        weights = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        refuse_by_weights(weights, name)
    found = format_of(config, weights, name, asked_as)
    if found is None:
        return None
    _refuse_quantised(config, name)
    if architectures_of(config):  # else the weights may yet say that it is a kindred format
        # What a user or a tokenizer may yet say is no reason.
        later = {"mask_token_id": 0} | ({} if found.block_key is None else {found.block_key: 1})
        try:
            found.config(Values(later | config, name))
        except UserError:
            raise
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise _no_network(name, error) from error
    return found


def _config(folder: Path) -> dict[str, Any]:
    """``config.json``; empty where it is no JSON, which `refuse_unsafe` says."""
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return config if isinstance(config, dict) else {}
    return {}


def _refuse_quantised(config: dict[str, Any], name: str) -> None:
    if config.get("quantization_config"):
        raise UserError(
            f"{name} is quantised, and what is made of it is to be trained; give the model it was made from"
        )


def ends_of(folder: Path, name: str) -> dict[str, Any]:
    """``eos_token_id`` of the ``generation_config.json`` in a folder, where it has one.

    Raises:
        UserError: it cannot be read, or is no id.
    """
    if not (folder / GENERATION).exists():
        return {}
    try:
        said = json.loads((folder / GENERATION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{GENERATION} of {name} cannot be read ({error}); download it again") from error
    ends = Values(said if isinstance(said, dict) else {}, name, GENERATION).ids("eos_token_id")
    return {} if ends is None else {"eos_token_id": ends}


def denoiser_config(
    released: Released, *, shift: bool | None, diffusion_block_size: int | None, mask_token_id: int | None
) -> tuple[MaskedDiffusionConfig, Verdict | None]:
    """The configuration of the denoiser that a released model is, and what its backbone was measured to read.

    Args:
        released: the model.
        shift, diffusion_block_size, mask_token_id: what the user says where the folder does not; None: nothing.

    Raises:
        UserError: the folder says otherwise or says too little, or sizes that make no network.
    """
    values, name, kind = released.values, released.name, released.format
    asked = [("mask_token_id", mask_token_id, "--mask-token-id", kind.mask)]
    if kind.block_key is not None:
        asked.append((kind.block_key, diffusion_block_size, "--diffusion-block-size", None))
    for key, said, flag, released_with in asked:
        if key in values and said not in (None, values.get(key)):
            raise UserError(f"{CONFIG} of {name} has {key} {values.get(key)!r}, but {flag} is {said}; leave it out")
        if key not in values and said is None:
            hint = "" if released_with is None else f" (the releases: {released_with})"
            raise UserError(f"{CONFIG} of {name} has no {key}; say with {flag} what it was trained with{hint}")
        if said is not None:
            values.config[key] = said
    if diffusion_block_size is not None and kind.block_key is None and not kind.owner_says:
        raise UserError(f"{name} is a {kind.title}, which has no diffusion blocks; leave out --diffusion-block-size")
    try:
        config = kind.config(values)
    except UserError:
        raise
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise _no_network(name, error) from error
    if shift is not None and shift != config.shift_logits:
        if not kind.owner_says:
            where = "from the position before it" if config.shift_logits else "at its own position"
            raise UserError(f"{name} is a {kind.title}, which predicts each token {where}; leave out --[no-]shift")
        config.shift_logits = shift
    if kind.owner_says:
        config.diffusion_block_size = diffusion_block_size
    for role in _ROLES:
        setattr(config, role, values.ids(role))
        one = getattr(config, role)
        setattr(config.backbone_config, role, one[0] if isinstance(one, list) else one)
    verdict = check_backbone(
        config.backbone_config, causal=False, kernel="sdpa", blocks=config.diffusion_block_size is not None
    )
    return config, verdict


def released_tokenizer(
    released: Released, config: MaskedDiffusionConfig, folder: Path, tokenizer: str | None
) -> PreTrainedTokenizerBase:
    """The tokenizer of a released model, with the token that the model takes as its mask as its mask token.

    Args:
        released, config: the model, and as the denoiser it becomes.
        folder: where it is.
        tokenizer: another than the folder's own.

    Raises:
        UserError: there is none, it has no such token, or more tokens than the model has rows.
    """
    name, mask_id = released.name, config.mask_token_id
    with tokenizer_source(folder, name, tokenizer) as source:
        words = load_tokenizer(source, mask_id, called=tokenizer or name)
    if len(words) > config.vocab_size:
        raise UserError(
            f"the tokenizer has {len(words)} tokens, but {name} has {config.vocab_size} rows; name the one it was trained "
            "with (--tokenizer)"
        )
    return words


def write_denoiser(released: Released, config: MaskedDiffusionConfig, folder: Path) -> int:
    """Write weights and configuration of a released model as those of a denoiser; no weight is read into memory.

    Args:
        released: the model.
        config: of the denoiser.
        folder: an existing one.

    Returns:
        How many parameters there are.

    Raises:
        UserError: weights are missing, left over or of another shape.
    """
    kind, left = released.format, {key for key in released.tensors if not key.endswith(_COMPUTED)}
    tensors: dict[str, tuple[tuple[int, ...], list[Stored]]] = {}
    shapes = our_shapes(config, released.name)
    for ours, shape in shapes.items():
        theirs = kind.names(config, ours)
        if lacking := next((key for key in theirs if key not in released.tensors), None):
            raise UserError(f"{released.name} lacks the weights {lacking} of a {kind.title}; download it again")
        parts = joined([released.tensors[key] for key in theirs], shape)
        if parts is None:
            found = " x ".join(map(str, released.tensors[theirs[0]].shape))
            raise UserError(
                f"{released.name} has the weights {theirs[0]} as {found}, which do not make the "
                f"{' x '.join(map(str, shape))} of its {CONFIG}; correct that, or download it again"
            )
        tensors[ours] = shape, parts
        left -= set(theirs)
    if left:
        raise UserError(
            f"the denoiser made of {released.name} has no place for the weights {min(left)}; give another model"
        )
    order = {key: place for place, key in enumerate(released.tensors)}  # as they lie in the files, which is read once
    write_tensors(dict(sorted(tensors.items(), key=lambda item: order[kind.names(config, item[0])[0]])), folder)
    config.architectures = [MaskedDiffusionForMaskedLM.__name__]
    config.dtype = _DTYPES.get(released.tensors[kind.names(config, "backbone.embed_tokens.weight")[0]].dtype)
    config.save_pretrained(folder)
    limit = config.max_position_embeddings
    MaskedDiffusionGenerationConfig(
        max_new_tokens=NEW_TOKENS if limit is None else min(NEW_TOKENS, max(limit // 2, 1)), **released.ends
    ).save_pretrained(folder)
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def our_shapes(config: MaskedDiffusionConfig, name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a denoiser's weights by name, a tied head left out; nothing is allocated."""
    try:
        with torch.device("meta"):
            model: Any = MaskedDiffusionForMaskedLM(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise _no_network(name, error) from error
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight")
    return shapes


def _no_network(name: str, error: Exception) -> UserError:
    return UserError(f"the sizes in the configuration of {name} make no network: {first_line(error)}")
