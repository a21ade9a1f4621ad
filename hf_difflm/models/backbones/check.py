"""Measured once for each configuration, refused where it does not fit, told once where there is something to tell."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from ... import __version__
from ...errors import UserError
from ..masked_diffusion.both_sides import class_of, kernel_for
from .measure import CAUSAL_LM, DENOISER, measure, measure_weights
from .sentences import refuse_blocks, refuse_documents, refuse_kernel, refuse_unfit, told
from .verdict import BOTH, CAUSAL, Verdict

logger = logging.getLogger(__name__)

# What a configuration says that changes nothing of what is measured, and may differ before and after a model is built.
_ASIDE = (
    "transformers_version",
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "auto_map",
    "is_causal",
    "use_cache",
)
_VERSIONS = (__version__, torch.__version__, transformers.__version__)
_MOST_ON_CPU = 200e6  # parameters of a network that is asked itself; a larger one on a CPU would take seconds

_verdicts: dict[tuple[tuple[Any, ...], bool], Verdict] = {}
_told: set[tuple[str, ...]] = set()


def verdict_on(
    config: Any,
    *,
    causal: bool,
    kernel: str | None = "sdpa",
    kind: type[PreTrainedModel] | None = None,
    whole: bool = True,
    blocks: bool = False,
    documents: bool = False,
) -> Verdict | None:
    """The verdict on the backbone with this configuration; measured once in a process for each configuration and version.

    Args:
        config: of a backbone or of a causal LM.
        causal: whether it is trained as a causal LM; else as a denoiser.
        kernel: attention kernel that is asked for.
        kind: class of the causal LM; default: the family's own.
        whole: also what only a training needs: kernels, gradients, files.
        blocks: also, of a denoiser, whether block diffusion runs on it.
        documents: also, whether documents of one row can be kept apart.

    Returns:
        The verdict; None within a fake tensor mode, where nothing is computed.
    """
    known = {name: value for name, value in config.to_dict().items() if name not in _ASIDE}
    # A tiny copy has special tokens of its own, where there are any.
    known |= {name: value is not None for name, value in known.items() if name.endswith("_token_id")}
    own = None
    with contextlib.suppress(Exception):  # a family whose code cannot be imported; the measurement says why
        own = class_of(config, AutoModelForCausalLM if causal else AutoModel)
        kernel, kind = kernel_for(kind or own, kernel), None if kind is own else kind
    if causal:
        known["is_causal"] = getattr(config, "is_causal", True)
    else:
        known.pop("tie_word_embeddings", None)
    key = (
        json.dumps(known, sort_keys=True, default=str),
        type(config),
        causal,
        kernel,
        kind,
        blocks,
        documents,
        _VERSIONS,
    )
    if (found := _verdicts.get((key, True)) or _verdicts.get((key, whole))) is None:
        if _get_current_dispatch_mode() is not None:
            return None
        found = measure(
            config,
            causal=causal,
            kernel=kernel or "sdpa",
            kind=kind,
            whole=whole,
            blocks=blocks,
            documents=documents,
        )
        _verdicts[key, whole] = found
    return found


def check_backbone(
    config: Any,
    *,
    causal: bool,
    kernel: str | None = "sdpa",
    allow_causal_layers: bool = False,
    router_aux_loss: float | None = None,
    kind: type[PreTrainedModel] | None = None,
    is_new: bool = False,
    blocks: bool = False,
) -> Verdict | None:
    """Measure a backbone, refuse it where it is not what is asked of it, and tell once what is to be known of it.

    Args:
        config, causal, kernel, kind: see :func:`verdict_on`.
        allow_causal_layers: take a denoiser of which some layers are causal.
        router_aux_loss: coefficient of the router loss that it is trained with.
        is_new: whether the network is still to be built, of a configuration that was made here.
        blocks: whether it is for block diffusion.

    Raises:
        UserError: it does not run though it is new; else see :func:`~hf_difflm.models.backbones.sentences.refuse_unfit` and
            :func:`~hf_difflm.models.backbones.sentences.refuse_blocks`.
    """
    if blocks:
        refuse_kernel(kernel_for(class_of(config), kernel))
    verdict = verdict_on(config, causal=causal, kernel=kernel, kind=kind, blocks=blocks)
    if verdict is None:
        return None
    if is_new and verdict.error is not None:
        raise UserError(
            f"backbone {verdict.model_type!r} does not run as a {verdict.role} in this configuration "
            f"({verdict.error.rstrip('.')}); check backbone_config and the sizes, or use another backbone such as llama"
        )
    refuse_unfit(verdict, allow_causal_layers=allow_causal_layers, router_aux_loss=router_aux_loss)
    if blocks:
        refuse_blocks(verdict, getattr(config, "max_position_embeddings", None))
    notes = told(verdict, getattr(config, "max_position_embeddings", None), router_aux_loss)
    if notes and (key := (verdict.model_type, verdict.role, *notes)) not in _told:
        _told.add(key)
        logger.warning("backbone %s: %s", verdict.model_type, "; ".join(notes))
    return verdict


def check_model(
    model: Any, *, allow_causal_layers: bool = False, router_aux_loss: float | None = None
) -> Verdict | None:
    """The same for a model that is there, whoever built it; where it is small or on a GPU, with its own weights, too.

    Args:
        model: a denoiser, a causal LM of transformers, one with adapters of PEFT around it, or any module that takes
            ``input_ids`` and returns ``logits``.
        allow_causal_layers: take a denoiser of which some layers are causal.
        router_aux_loss: coefficient of the router loss that it is trained with.

    Returns:
        The verdict; None for what has no configuration of transformers.

    Raises:
        UserError: it is not what its kind is trained as.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config: Any = getattr(base, "config", None)
    denoises = getattr(config, "model_type", None) == "masked_diffusion"
    verdict = None
    if isinstance(base, PreTrainedModel):
        verdict = check_backbone(
            config.backbone_config if denoises else config,
            causal=not denoises,
            kernel=config._attn_implementation,
            allow_causal_layers=allow_causal_layers,
            router_aux_loss=router_aux_loss,
            kind=None if denoises else type(base),
            blocks=denoises and config.diffusion_block_size is not None,
        )
        if denoises:
            note_padding(config, verdict)
    elif router_aux_loss is not None:
        raise UserError(
            f"router_aux_loss {router_aux_loss:g} has no effect: {type(base).__name__} is no network of transformers, of "
            "which it is known what its routers say; leave it out"
        )
    _check_weights(base, denoises, verdict)
    return verdict


def check_documents(model: Any) -> None:
    """Refuse rows that hold several documents on a network that does not keep them apart.

    Args:
        model: a denoiser or a causal LM, perhaps with adapters of PEFT around it.

    Raises:
        UserError: its attention kernel takes no mask of documents, a document is something else than alone, it has windows,
            which such a mask would replace, or one time for all of a row; it is no network of transformers.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, PreTrainedModel):
        raise UserError(
            f"{type(base).__name__} is no network of transformers, of which it is known how the documents of a row are kept "
            "apart; set packing to concat"
        )
    config: Any = base.config
    denoises = getattr(config, "model_type", None) == "masked_diffusion"
    own, kernel = (config.backbone_config if denoises else config), config._attn_implementation
    if denoises:
        kernel = kernel_for(class_of(own), kernel)
    verdict = verdict_on(
        own, causal=not denoises, kernel=kernel, kind=None if denoises else type(base), whole=False, documents=True
    )
    refuse_documents(verdict, own.model_type, kernel, getattr(own, "max_position_embeddings", None))
    if getattr(config, "time_conditioned", False):
        raise UserError(
            f"backbone {own.model_type!r} is told one time for all of a row, of which each document has its own; set "
            "packing to concat"
        )


def check_loaded(model: Any) -> None:
    """What is asked of a network whose likelihoods or texts are wanted: a causal LM that is one, a denoiser's padding.

    Raises:
        UserError: a causal LM reads the token that it predicts, or another row where there is padding; block diffusion does
            not run on a denoiser that has blocks.
    """
    if getattr(model.config, "model_type", None) == "masked_diffusion":
        if model.config.diffusion_block_size is not None:
            check_backbone(
                model.config.backbone_config, causal=False, kernel=model.config._attn_implementation, blocks=True
            )
        if model.config.reads_padding is None:  # written by an earlier version
            note_padding(model.config, verdict_on(model.config.backbone_config, causal=False, whole=False))
        return
    kernel = model.config._attn_implementation
    verdict = verdict_on(model.config, causal=True, kernel=kernel, kind=type(model), whole=False)
    if verdict is not None:
        refuse_unfit(verdict)
    _check_weights(model, False, verdict)


def note_padding(config: Any, verdict: Verdict | None) -> None:
    """Tell a denoiser's configuration, which may know it already, whether padding changes a row of its backbone."""
    if config.reads_padding is None and verdict is not None:
        config.reads_padding = verdict.reads_padding


def takes_left_padding(model: Any) -> bool:
    """Whether a row of a causal LM that is padded on the left, and given its positions, stays what it is alone."""
    kernel = model.config._attn_implementation
    verdict = verdict_on(model.config, causal=True, kernel=kernel, kind=type(model), whole=False)
    return verdict is None or verdict.error is not None or verdict.left_padding is True


def _check_weights(base: Any, denoises: bool, verdict: Verdict | None) -> None:
    """Refuse a network whose own weights read otherwise than its configuration says."""
    config: Any = getattr(base, "config", None)
    direction = measure_weights(base) if _can_be_asked(base) else None
    name = getattr(getattr(config, "backbone_config", config), "model_type", type(base).__name__)
    if direction is not None and ((denoises and direction == CAUSAL) or (not denoises and direction == BOTH)):
        # Its configuration may say one thing and what was done to the modules another.
        refuse_unfit(
            Verdict(name, DENOISER if denoises else CAUSAL_LM, direction, layers=getattr(verdict, "layers", 0))
        )


def _can_be_asked(model: Any) -> bool:
    """Whether two short rows through the network itself cost next to nothing and are safe."""
    if not isinstance(model, torch.nn.Module) or _get_current_dispatch_mode() is not None:
        return False
    kernel = getattr(getattr(model, "config", None), "_attn_implementation", "eager")
    parameters = list(model.parameters())
    places = {parameter.device.type for parameter in parameters}
    whole = len(places) == 1 and all(not hasattr(p, "ds_id") and p.numel() for p in parameters)
    small = sum(parameter.numel() for parameter in parameters) <= _MOST_ON_CPU
    return kernel in ("sdpa", "eager") and whole and (places == {"cuda"} or (places == {"cpu"} and small))


__all__ = [
    "check_backbone",
    "check_documents",
    "check_loaded",
    "check_model",
    "note_padding",
    "takes_left_padding",
    "verdict_on",
]
