"""Whether a converted model computes what its source does: both are run on the same tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...errors import UserError, first_line
from ...models import MaskedDiffusionForMaskedLM
from ...models.masked_diffusion.both_sides import read_both_sides

_LENGTH = 8
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}  # relative to the largest logit
_HALF = 3e-2


@torch.no_grad()
def check_same(
    source: PreTrainedModel,
    model: MaskedDiffusionForMaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    *,
    is_causal: bool,
    name: str,
) -> float:
    """Compare the logits of a denoiser at masked positions with its source's, and see that it looks both ways.

    Args:
        source: the language model, with a row for the mask token.
        model: the denoiser made of it; a causal mask is put on it for the comparison with a causal LM.
        tokenizer: says which tokens are special.
        is_causal: whether the source is a causal LM.
        name: what the user knows the source as.

    Returns:
        The largest difference, relative to the largest logit.

    Raises:
        UserError: the source does not run, they differ, or the denoiser does not see what comes later.
    """
    ids_LL = _one_mask_a_row(model, tokenizer)
    keep_V = torch.arange(model.config.vocab_size) != model.config.mask_token_id
    places = torch.arange(_LENGTH)
    read_at = (places - int(model.config.shift_logits)).clamp(min=0)
    try:
        expected_LV = source(input_ids=ids_LL).logits[places, read_at][:, keep_V].float()
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{name} is a {type(source).__name__} that does not run: {first_line(error)}; give another model"
        ) from error
    with _causal(model) if is_causal else _as_it_is():
        found_LV = model(ids_LL).logits[places, places][:, keep_V].float()
    largest = expected_LV.abs().max().clamp(min=1e-6)
    difference = float((found_LV - expected_LV).abs().max() / largest)
    if not difference <= _TOLERANCE.get(source.dtype, _HALF):
        raise UserError(
            f"{name} is a {type(source).__name__}, whose logits come out differently as a denoiser (by {difference:.1%} of "
            "the largest), as where a head does more than a linear map; give another model"
        )
    other_LL = ids_LL.clone()
    other_LL[1, -1] = other_LL[2, 1]
    if torch.equal(model(ids_LL).logits[1, 1], model(other_LL).logits[1, 1]):
        raise UserError(
            f"{name} is a {type(source).__name__}, which transformers cannot run in both directions; give another model"
        )
    return difference


def _one_mask_a_row(model: MaskedDiffusionForMaskedLM, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Rows of the same ordinary, different tokens; the mask is at position i of row i."""
    ordinary = sorted(set(range(len(tokenizer))) - {*tokenizer.all_special_ids, model.config.mask_token_id})
    shuffled = torch.randperm(len(ordinary), generator=torch.Generator().manual_seed(0))
    ids_LL = torch.tensor(ordinary)[shuffled[torch.arange(_LENGTH) % len(ordinary)]].repeat(_LENGTH, 1)
    return ids_LL.masked_fill(torch.eye(_LENGTH, dtype=torch.bool), model.config.mask_token_id)


@contextmanager
def _causal(model: MaskedDiffusionForMaskedLM) -> Iterator[None]:
    config: Any = model.backbone.config
    attention: list[Any] = [module for module in model.backbone.modules() if hasattr(module, "is_causal")]
    config.is_causal = True
    for module in attention:
        module.is_causal = True
    try:
        yield
    finally:
        config.is_causal = False
        read_both_sides(model.backbone)


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield
