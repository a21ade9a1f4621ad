"""A masked diffusion model from weights that exist: of a causal LM, of a masked LM, or of a published MDLM checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data import load_tokenizer
from ...errors import UserError
from ...evaluation.ancestry import ancestry
from ...evaluation.targets import Weights, find_weights
from ...models import MaskedDiffusionForMaskedLM
from ...models.adapters.folders import is_adapter_folder
from ...models.backbones.check import check_backbone, check_model
from ...models.backbones.sentences import direction_said
from ...models.loading import config_of, is_denoiser, load_config, tokenizer_folder
from .check import check_same
from .language_models import CAUSAL, MASKED, convert_lm, kind_of, load_lm, refuse_quantised
from .mdlm import MDLMConfig, convert_mdlm, tokenizer_of
from .released.formats import asked_for
from .released.reading import (
    Released,
    denoiser_config,
    refuse_first,
    released_in,
    released_tokenizer,
    write_denoiser,
)
from .released.tokenizers import own_mask
from .released.whole import all_or_nothing

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Converted:
    """What :func:`convert` made.

    Attributes:
        folder: the new model folder.
        kind: what the source is: ``causal LM``, ``masked LM``, ``MDLM checkpoint``, or the name of a released format.
        model_type: of the backbone.
        parameters: how many there are.
        mask_token, mask_token_id: what hides a token; no token without a tokenizer.
        new_rows: rows that the embeddings grew by.
        shift_logits: whether a token is predicted from the position before it.
        difference: largest difference of a logit to the source's, relative to the largest logit, on random tokens and under
            the source's own attention mask; None for checkpoints whose own code is never run.
        reads: what the denoiser was measured to read.
        diffusion_block_size: tokens of a diffusion block; None: it has none.
        sampled_by: options of ``generate`` for the sampler it was published with, where that is known.
    """

    folder: Path
    kind: str
    model_type: str
    parameters: int
    mask_token: str | None
    mask_token_id: int
    new_rows: int
    shift_logits: bool
    difference: float | None
    reads: str
    diffusion_block_size: int | None = None
    sampled_by: str | None = None


def convert(
    source: str,
    output_dir: Path,
    *,
    mask_token: str | None = None,
    shift: bool | None = None,
    tokenizer: str | None = None,
    revision: str | None = None,
    allow_causal_layers: bool = False,
    diffusion_block_size: int | None = None,
    no_tokenizer: bool = False,
    mask_token_id: int | None = None,
    released_as: str | None = None,
) -> Converted:
    """Write a masked diffusion model with the weights of another model, as they are stored.

    Args:
        source: a run, a checkpoint, a model folder or ``OWNER/NAME`` on the Hub. Only safetensors are read and no code.
        output_dir: folder to write, missing or empty.
        mask_token: see :func:`~hf_difflm.data.load_tokenizer`.
        shift: whether a token is predicted from the position before it; default: as the source predicts.
        tokenizer: the tokenizer; default: the source's own.
        revision: branch, tag or commit on the Hub.
        allow_causal_layers: take a network of which some layers read back only.
        diffusion_block_size: tokens of a block of block diffusion; None: one masked diffusion over the whole text, or what
            the folder of a released model says.
        no_tokenizer: write none, of a released model.
        mask_token_id: what hides a token, of a released model whose folder does not say.
        released_as: ``open-dllm`` or ``diffullama``: a causal LM by its folder, and a diffusion language model by its
            weights.

    Raises:
        UserError: no such source; a kind of model that cannot be converted, that does not read both sides, or whose logits
            would come out differently; a mask token that cannot be one; a folder that holds something.
    """
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise UserError(f"{output_dir} exists and is not empty; give another --output-dir, or remove it")
    found = find_weights(source, revision, lambda folder, name: _refuse_first(folder, name, released_as))
    if (released := released_in(found.folder, found.name, released_as)) is not None:
        if mask_token is not None:
            raise UserError(f"{found.name} has a mask already; leave out --mask-token")
        return _convert_released(
            released,
            found,
            source,
            output_dir,
            shift=shift,
            diffusion_block_size=diffusion_block_size,
            mask_token_id=mask_token_id,
            tokenizer=tokenizer,
            no_tokenizer=no_tokenizer,
        )
    if no_tokenizer or mask_token_id is not None:
        flag = "--no-tokenizer" if no_tokenizer else "--mask-token-id"
        raise UserError(
            f"{flag} is for released diffusion language models (LLaDA, Dream, SDAR, ...), but {found.name} is none; leave it "
            "out"
        )
    config = load_config(found.folder, found.name)
    _refuse_denoiser(config, found.name)
    difference: float | None = None
    if isinstance(config, MDLMConfig):
        kind = "MDLM checkpoint"
        if shift:
            raise UserError(f"{found.name} predicts each token at its own position; leave out --shift")
        words = load_tokenizer(tokenizer or tokenizer_of(found.folder, config), mask_token)
        old_rows = config.vocab_size
        model = convert_mdlm(found.folder, config, words, found.name)
    else:
        kind = kind_of(config, found.name)
        check_backbone(  # before the weights are read
            config, causal=False, kernel="sdpa", allow_causal_layers=allow_causal_layers
        )
        if shift and kind == MASKED:
            raise UserError(
                f"{found.name} is a masked LM, which predicts each token at its own position; leave out --shift"
            )
        words = load_tokenizer(tokenizer or str(tokenizer_folder(found.folder, found.name)), mask_token)
        has_mask = words.init_kwargs.get("mask_token") is not None
        if kind == CAUSAL and has_mask and mask_token is None and found.run is None:
            known = asked_for(config.model_type)
            logger.warning(
                "%s is taken for a causal LM, whose mask token is new and begins as the mean token%s",
                found.name,
                f"; if it was trained with its {words.mask_token}, as {known.title}'s models are, convert it with --as "
                f"{known.asked_as}"
                if known
                else f"; its {words.mask_token} is not looked at",
            )
        original = load_lm(found.folder, config, kind, found.name)
        old_rows = original.get_input_embeddings().weight.shape[0]
        model = convert_lm(original, words, kind, shift=kind == CAUSAL if shift is None else shift, name=found.name)
        difference = check_same(original, model, words, is_causal=kind == CAUSAL, name=found.name)
    if diffusion_block_size is not None:
        model.config.diffusion_block_size = diffusion_block_size
    verdict = check_model(model, allow_causal_layers=allow_causal_layers)
    model.config.converted_from = _origin(source, found, kind, config)
    _write(model, words, output_dir)
    return Converted(
        folder=output_dir,
        kind=kind,
        model_type=model.config.backbone_config.model_type,
        parameters=model.num_parameters(),
        mask_token=words.mask_token,
        mask_token_id=words.mask_token_id,
        new_rows=model.config.vocab_size - old_rows,
        shift_logits=model.config.shift_logits,
        difference=difference,
        diffusion_block_size=diffusion_block_size,
        reads="" if verdict is None else direction_said(verdict, model.config.max_position_embeddings),
    )


def _refuse_first(folder: Path, name: str, released_as: str | None) -> None:
    """What can be said before the weights are there, of a model on the Hub."""
    if refuse_first(folder, name, released_as) is not None or is_adapter_folder(folder):
        return
    config = config_of(folder, name)
    _refuse_denoiser(config, name)
    if not isinstance(config, MDLMConfig):
        kind_of(config, name)
        refuse_quantised(config, name)


def _refuse_denoiser(config: Any, name: str) -> None:
    if is_denoiser(config):
        raise UserError(f"{name} is a masked diffusion model already; train it further with --init-from")


def _origin(source: str, found: Weights, kind: str, config: Any) -> dict[str, Any]:
    """What the configuration says of the source."""
    return ancestry(found, source) | {"kind": kind, "model_type": config.model_type}


def _convert_released(
    released: Released,
    found: Weights,
    source: str,
    output_dir: Path,
    *,
    shift: bool | None,
    diffusion_block_size: int | None,
    mask_token_id: int | None,
    tokenizer: str | None,
    no_tokenizer: bool,
) -> Converted:
    """The weights of a released model under our names; they are copied, and nothing is computed with them."""
    if no_tokenizer and tokenizer is not None:
        raise UserError(f"--no-tokenizer writes none, but --tokenizer is {tokenizer!r}; leave one of them out")
    if mask_token_id is None and "mask_token_id" not in released.values and not no_tokenizer:
        mask_token_id = own_mask(found.folder, found.name, tokenizer)
    model, verdict = denoiser_config(
        released, shift=shift, diffusion_block_size=diffusion_block_size, mask_token_id=mask_token_id
    )
    words = None if no_tokenizer else released_tokenizer(released, model, found.folder, tokenizer)
    kind = released.format.kind
    model.converted_from = ancestry(found, source) | {"kind": kind, "model_type": released.values.get("model_type")}
    with all_or_nothing(output_dir) as whole:
        parameters = write_denoiser(released, model, whole)
        if words is not None:
            words.save_pretrained(whole)
    return Converted(
        folder=output_dir,
        kind=kind,
        model_type=model.backbone_config.model_type,
        parameters=parameters,
        mask_token=None if words is None else words.mask_token,
        mask_token_id=released.values.whole("mask_token_id"),
        new_rows=0,
        shift_logits=model.shift_logits,
        difference=None,
        diffusion_block_size=model.diffusion_block_size,
        reads="" if verdict is None else direction_said(verdict, model.max_position_embeddings),
        sampled_by=released.format.sampled_by,
    )


def _write(model: MaskedDiffusionForMaskedLM, tokenizer: Any, folder: Path) -> None:
    with all_or_nothing(folder) as whole:
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
