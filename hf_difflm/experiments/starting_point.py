"""Beginning with weights that exist: architecture and tokenizer are theirs, and the run is a new one."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from ..data import load_tokenizer
from ..errors import UserError
from ..evaluation.ancestry import ancestry
from ..evaluation.targets import find_weights, load_average
from ..models import MaskedDiffusionForMaskedLM
from ..models.adapters.folders import is_adapter_folder
from ..models.build import step_in_each_block
from ..models.loading import config_of, is_denoiser, load_config, load_model, tokenizer_folder
from ..models.masked_diffusion.both_sides import class_of, kernel_for
from ..models.masked_diffusion.generation_configuration import NEW_TOKENS
from ..models.untrusted import CONVERT_FIRST
from ..runs import load_run
from ..runs.journal.checkpoints import newest_good
from .recipe_settings import Settings, StartingPoint
from .run_folder import keeps_log

logger = logging.getLogger(__name__)

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
_NOISE = ("noise_schedule", "schedule_exponent", "sigma_min", "sigma_max")


def begin_from(settings: Settings, resumed: Path | None = None) -> Settings:
    """Settings that say of the network what the weights of ``init_from`` decide; unchanged where there is no ``init_from``.

    Architecture and tokenizer are those of the weights. The noise schedule is theirs, too, unless it is given: it is no
    part of what they have learnt. So is the size of diffusion blocks, which may be another, or the first.

    Args:
        settings: of a run.
        resumed: folder of the run to go on with, whose newest good checkpoint counts then.

    Raises:
        UserError: there are no such weights, or they are of another kind than the objective trains or the settings say.
    """
    source = settings.model.init_from
    if source is None and settings.model.revision is not None:
        raise UserError(
            "--revision is that of the model --init-from names, which is missing; add it, or leave both out"
        )
    if source is None or settings.start is not None:
        return settings
    objective = settings.training["objective"]
    start = _starting_point(source, settings.model.revision, resumed, objective)
    config: Any = load_config(start.folder, start.name)
    _check_kind(objective, is_denoiser(config), start.name)
    decided = _decided(config)
    _check_given(settings, decided, start.name)
    if is_denoiser(config):
        _check_blocks(settings, config, start.name)
    model = dataclasses.replace(settings.model, **decided)
    longest = config.max_position_embeddings if is_denoiser(config) else model.max_position_embeddings
    _check_length(settings.data.block_size, longest, start.name)
    tokenizer = settings.data.tokenizer if "tokenizer" in settings.given else source
    training = dict(settings.training)
    if is_denoiser(config):
        training |= {name: getattr(config, name) for name in _NOISE if name not in settings.given}
        if training["diffusion_block_size"] is None:
            training["diffusion_block_size"] = config.diffusion_block_size
    return dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, tokenizer=tokenizer),
        model=model,
        training=training,
        start=start,
    )


def open_tokenizer(settings: Settings) -> PreTrainedTokenizerBase:
    """The tokenizer of a run: that of the weights it begins with, unless another is given.

    That of a causal LM gets no mask token where it has none: nothing hides a token from it, and its vocabulary stays.

    Raises:
        UserError: it cannot be loaded.
    """
    name, start = settings.data.tokenizer, settings.start
    if start is not None and name == settings.model.init_from:
        name = str(tokenizer_folder(start.folder, start.name))
    return load_tokenizer(name, needs_mask=start is None or settings.training["objective"] != "ar")


def load_start(settings: Settings, start: StartingPoint, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The network that training begins with, in float32 and without dropout, as a fresh one would be.

    A causal LM gets rows for tokens that its tokenizer was missing.

    Raises:
        UserError: it cannot be loaded, or does not fit the tokenizer.
    """
    config = _start_config(settings, start, tokenizer)
    model = load_model(
        start.folder, start.name, config, dtype=torch.float32, attn_implementation=settings.model.attn_implementation
    )
    if not start.is_checkpoint:
        load_average(model, start.folder)
    if not is_denoiser(config) and len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        logger.warning("%s: the embeddings grow to the %d tokens of the tokenizer", start.name, len(tokenizer))
        model.resize_token_embeddings(len(tokenizer))
    said = getattr(model.generation_config, "max_new_tokens", None) or NEW_TOKENS
    model.generation_config.max_new_tokens = min(max(said, NEW_TOKENS), settings.data.block_size - 1)
    if is_denoiser(config) and config.diffusion_block_size is not None:
        step_in_each_block(model, settings.data.block_size)
    return model


def start_without_weights(settings: Settings, start: StartingPoint, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The same network, its weights not read: one of its sizes, for what only these matter to.

    Raises:
        UserError: it cannot be built, or does not fit the tokenizer.
    """
    config = _start_config(settings, start, tokenizer)
    if is_denoiser(config):
        config._attn_implementation = settings.model.attn_implementation
        return MaskedDiffusionForMaskedLM(config)
    config.vocab_size = max(config.vocab_size, len(tokenizer))
    kernel = kernel_for(class_of(config, AutoModelForCausalLM), settings.model.attn_implementation)
    return AutoModelForCausalLM.from_config(config, attn_implementation=kernel, dtype=torch.get_default_dtype())


def _start_config(settings: Settings, start: StartingPoint, tokenizer: PreTrainedTokenizerBase) -> Any:
    config: Any = load_config(start.folder, start.name)
    vars(config).pop("auto_map", None)  # a run's own folders hold no code; pushing adds it
    for part in (config, getattr(config, "backbone_config", None)):
        _drop_nothing(part)
    if is_denoiser(config):
        _check_vocabulary(config, tokenizer, start.name)
        for name in (*_NOISE, "diffusion_block_size"):
            setattr(config, name, settings.training[name])
        config.diffusion_block_start = block_start(settings)
    return config


def _starting_point(source: str, revision: str | None, resumed: Path | None, objective: str) -> StartingPoint:
    checkpoint = newest_good(resumed)[0] if resumed is not None else None
    if resumed is not None and checkpoint is not None:
        header = load_run(resumed).headers[0] if keeps_log(resumed) else None
        recorded = None if header is None else header.parent_run
        past = {} if header is None else header.metadata.get("parent") or {}
        return StartingPoint(checkpoint, str(checkpoint), recorded or source, is_checkpoint=True, ancestry=past)

    def check_first(folder: Path, name: str) -> None:
        if not is_adapter_folder(folder):
            _check_kind(objective, is_denoiser(config_of(folder, name)), name)

    found = find_weights(source, revision, check_first)
    parent = load_run(found.run).headers[0].run_id if found.run is not None else None
    named = source if found.commit is None else f"{source}@{found.commit}"
    return StartingPoint(found.folder, found.name, parent or named, ancestry=ancestry(found, source))


def _check_kind(objective: str, denoises: bool, name: str) -> None:
    if objective == "ar" and denoises:
        raise UserError(
            f"{name} is a masked diffusion model, but the objective is ar; train with --objective mdlm, or begin with a "
            "causal LM"
        )
    if objective != "ar" and not denoises:
        raise UserError(
            f"{name} is a causal LM, but the objective is {objective}; {CONVERT_FIRST}, or train with --objective ar"
        )


def block_start(settings: Settings) -> str:
    """Where diffusion blocks are counted from: of conversations from the answer, of text from its first token."""
    return "answer" if settings.data.sft and settings.training["objective"] == "bd3lm" else "text"


def _check_blocks(settings: Settings, config: Any, name: str) -> None:
    """Raise UserError where weights that learnt with diffusion blocks would be trained without."""
    objective, size = settings.training["objective"], config.diffusion_block_size
    if objective != "bd3lm" and size is not None:
        raise UserError(
            f"{name} has diffusion blocks of {size} tokens, but the objective is {objective}; train with --objective bd3lm"
        )


def _decided(config: Any) -> dict[str, Any]:
    """Options of the network that follow from its configuration."""
    backbone = getattr(config, "backbone_config", None) or config
    sizes = {name: getattr(backbone, name, None) for name in _SIZES}
    return {"backbone": backbone.model_type, "tie_word_embeddings": bool(config.tie_word_embeddings), **sizes}


def _check_given(settings: Settings, decided: dict[str, Any], name: str) -> None:
    if settings.given.get("backbone_config"):
        raise UserError(f"backbone_config is that of a new network, but the one of {name} is there; leave it out")
    wrong = {key: value for key, value in decided.items() if settings.given.get(key, value) != value}
    if wrong:
        given = ", ".join(f"{key} = {settings.given[key]!r}" for key in wrong)
        raise UserError(
            f"{name} does not have {given}, but {', '.join(f'{key} = {value!r}' for key, value in wrong.items())}; leave "
            "them out, or begin with other weights"
        )


def _check_length(block_size: int, longest: int | None, name: str) -> None:
    if longest is not None and block_size > longest:
        raise UserError(f"block_size must be at most the {longest} tokens that {name} takes, got {block_size}")


def _check_vocabulary(config: Any, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if tokenizer.mask_token_id != config.mask_token_id or len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer does not fit {name}: it has {len(tokenizer)} tokens and the mask {tokenizer.mask_token_id}, but "
            f"the model {config.vocab_size} and {config.mask_token_id}; leave out --tokenizer to take the model's own"
        )


def _drop_nothing(config: Any) -> None:
    for name, value in list(vars(config).items()) if config is not None else ():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)
