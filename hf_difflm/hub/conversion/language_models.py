"""Causal and masked LMs of transformers as denoisers: the same weights under other names, and a row for the mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from ...errors import UserError, first_line
from ...models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM, MaskedDiffusionGenerationConfig
from ...models.adapters.files import load_merged
from ...models.adapters.folders import AVERAGES, is_adapter_folder
from ...models.loading import network_of
from ...models.masked_diffusion.generation_configuration import NEW_TOKENS

CAUSAL, MASKED = "causal LM", "masked LM"
_LOADERS: dict[str, Any] = {CAUSAL: AutoModelForCausalLM, MASKED: AutoModelForMaskedLM}
_MAPPINGS: dict[str, Any] = {CAUSAL: MODEL_FOR_CAUSAL_LM_MAPPING, MASKED: MODEL_FOR_MASKED_LM_MAPPING}
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)

# Where a family's masked LM has the parts of its head transform: part of ours -> module of theirs.
_ROBERTA_HEAD = {"dense": "lm_head.dense", "LayerNorm": "lm_head.layer_norm"}
_HEADS: dict[str, dict[str, str]] = {
    "bert": {"dense": "cls.predictions.transform.dense", "LayerNorm": "cls.predictions.transform.LayerNorm"},
    "modernbert": {"dense": "head.dense", "norm": "head.norm"},
    "distilbert": {"dense": "vocab_transform", "LayerNorm": "vocab_layer_norm"},
    "roberta": _ROBERTA_HEAD,
    "xlm-roberta": _ROBERTA_HEAD,
    "camembert": _ROBERTA_HEAD,
}


def kind_of(config: PreTrainedConfig, name: str) -> str:
    """Whether a model is a causal LM or a masked LM.

    Raises:
        UserError: it is neither.
    """
    found = {kind: _class_names(mapping, config) for kind, mapping in _MAPPINGS.items()}
    for architecture in config.architectures or []:
        for kind, names in found.items():
            if architecture in names:
                return kind
    possible = [kind for kind, names in found.items() if names]
    if not config.architectures and len(possible) == 1:
        return possible[0]
    what = ", ".join(config.architectures or [config.model_type])
    raise UserError(f"{name} is a {what}, and neither a causal LM nor a masked LM; give one of these")


def _class_names(mapping: Any, config: PreTrainedConfig) -> set[str]:
    classes = mapping.get(type(config), ())
    return {kind.__name__ for kind in (classes if isinstance(classes, (tuple, list)) else (classes,))}


def refuse_quantised(config: PreTrainedConfig, name: str) -> None:
    """Raise UserError for a model whose weights are not those that were trained."""
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{name} is quantised, and what is made of it is to be trained; give the model it was made from"
        )


def load_lm(folder: Path, config: PreTrainedConfig, kind: str, name: str) -> Any:
    """Load a language model as it is stored, from safetensors; an adapter merged into its network.

    Raises:
        UserError: weights are missing, damaged, quantised or of other shapes.
    """
    refuse_quantised(config, name)
    if is_adapter_folder(folder):
        place, network = network_of(folder, name)
        return load_merged(load_lm(place, config, kind, network), folder, name, folder / AVERAGES).eval()
    try:
        model, found = _LOADERS[kind].from_pretrained(
            folder, config=config, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except _BROKEN as error:
        raise UserError(f"{name} cannot be loaded as a {kind}: {first_line(error)}; give another") from error
    if found["missing_keys"]:
        raise UserError(f"{name} lacks the weights {min(found['missing_keys'])} of a {kind}; give another")
    return model.eval()


def convert_lm(
    source: Any, tokenizer: PreTrainedTokenizerBase, kind: str, *, shift: bool, name: str
) -> MaskedDiffusionForMaskedLM:
    """A denoiser with the weights of a causal or masked LM.

    The source is changed, too: it gets the rows of new tokens. These, and with a causal LM the row of the mask, which it
    cannot have been trained on, begin as the mean of all tokens' rows: a token that says nothing.

    Args:
        source: the language model, of transformers.
        tokenizer: with a mask token.
        kind: :data:`CAUSAL` or :data:`MASKED`.
        shift: whether a token is predicted from the position before it.
        name: what the user knows the source as.

    Raises:
        UserError: its parts are not those of a backbone and a vocabulary projection.
    """
    head, base = source.get_output_embeddings(), source.base_model
    if not isinstance(head, nn.Linear) or base is source:
        raise UserError(
            f"{name} is a {type(source).__name__} without a backbone and a linear LM head; give another model"
        )
    _fill_rows(source, tokenizer, always_mask=kind == CAUSAL)
    head = source.get_output_embeddings()
    tied = head.weight is source.get_input_embeddings().weight
    config = MaskedDiffusionConfig(
        backbone_config=base.config,
        mask_token_id=tokenizer.mask_token_id,
        tie_word_embeddings=tied,
        shift_logits=shift,
        head_bias=head.bias is not None,
        **{role: getattr(tokenizer, role) for role in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    config._attn_implementation = base.config._attn_implementation  # what the family has
    backbone: Any = config.backbone_config
    backbone.name_or_path = ""  # of this machine
    backbone.vocab_size = source.get_input_embeddings().weight.shape[0]
    if MODEL_MAPPING.get(type(backbone), None) is not type(base) or head.in_features != backbone.hidden_size:
        raise UserError(f"{name} is a {type(source).__name__} whose backbone does not stand alone; give another model")
    weights = {f"backbone.{key}": value for key, value in base.state_dict().items() if not key.startswith("pooler.")}
    weights |= {f"lm_head.{key}": value for key, value in head.state_dict().items() if not (tied and key == "weight")}
    for ours, theirs in _HEADS.get(backbone.model_type, {}).items():
        part = source.get_submodule(theirs).state_dict()
        weights |= {f"head_transform.{ours}.{key}": value for key, value in part.items()}
    return load_denoiser(config, weights, source.dtype, name)


def load_denoiser(
    config: MaskedDiffusionConfig, weights: dict[str, torch.Tensor], dtype: torch.dtype, name: str
) -> MaskedDiffusionForMaskedLM:
    """A denoiser from weights under its own names.

    Raises:
        UserError: one is missing, left over or of another shape.
    """
    loader: Any = MaskedDiffusionForMaskedLM  # its annotations know no loading info
    try:
        model, found = loader.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            generation_config=MaskedDiffusionGenerationConfig(),  # else it looks for a file
            output_loading_info=True,
        )
    except _BROKEN as error:
        raise UserError(f"the weights of {name} do not fit: {first_line(error)}; give another model") from error
    for problem, keys in (("lacks", found["missing_keys"]), ("has no place for", found["unexpected_keys"])):
        if keys:
            raise UserError(f"the denoiser made of {name} {problem} the weights {min(keys)}; give another model")
    limit = model.config.max_position_embeddings
    # Half of a short context, so that there is room for a prompt.
    model.generation_config.max_new_tokens = NEW_TOKENS if limit is None else min(NEW_TOKENS, max(limit // 2, 1))
    return model.eval()


@torch.no_grad()
def _fill_rows(source: Any, tokenizer: PreTrainedTokenizerBase, *, always_mask: bool) -> None:
    """Give new tokens a row in the embeddings and in the head, the mean of those of the tokens there are."""
    mask_id, old_rows = tokenizer.mask_token_id, source.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old_rows:
        source.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    fresh = list(range(old_rows, len(tokenizer)))
    if always_mask and mask_id < old_rows:
        fresh.append(mask_id)
    known = torch.ones(min(old_rows, len(tokenizer)), dtype=torch.bool)
    known[mask_id : mask_id + 1] = False
    inputs, head = source.get_input_embeddings().weight, source.get_output_embeddings()
    tables = [inputs] if head.weight is inputs else [inputs, head.weight]
    for table in [*tables, *([] if head.bias is None else [head.bias])]:
        table[fresh] = table[: len(known)][known].float().mean(0).to(table.dtype)
