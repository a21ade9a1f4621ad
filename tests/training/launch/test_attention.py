"""``attn_implementation``: every kernel that runs here gives the same numbers through the flag; the others are refused."""

from __future__ import annotations

import pytest
import torch

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.experiments.building import build_model
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.training.launch.attention import check_attention

SIZES = {"block_size": 24, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FLEX = pytest.param("flex_attention", marks=pytest.mark.slow)  # is compiled: seconds of C++ compiler


def build(attention: str, backbone: str):
    tokenizer = load_tokenizer("bytes")
    settings = load_settings("demo", {**SIZES, "backbone": backbone, "attn_implementation": attention})
    torch.manual_seed(0)
    model = build_model(settings, tokenizer)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # far from the symmetries of a fresh network
    return model.eval(), tokenizer


@pytest.mark.parametrize("attention", ["eager", FLEX])
@pytest.mark.parametrize("backbone", ["llama", "modernbert", "dit"])
@torch.no_grad()
def test_every_kernel_gives_the_numbers_of_sdpa_with_padding_on_either_side(attention, backbone):
    (model, tokenizer), (other, _) = build("sdpa", backbone), build(attention, backbone)
    for made, name in ((model, "sdpa"), (other, attention)):
        assert made.config._attn_implementation == made.backbone.config._attn_implementation == name
    ids_BL = torch.randint(97, 123, (3, 24), generator=torch.Generator().manual_seed(2))
    ids_BL[:, 1::2] = tokenizer.mask_token_id
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[0, :5] = 0
    mask_BL[1, 17:] = 0
    for mask in (None, mask_BL):
        labels = ids_BL.masked_fill(ids_BL != tokenizer.mask_token_id, -100).clamp(max=100)
        labels = labels if mask is None else labels.masked_fill(mask == 0, -100)
        ours, theirs = (m(ids_BL, attention_mask=mask, labels=labels).token_nll for m in (model, other))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager", FLEX])
@torch.no_grad()
def test_what_is_padding_changes_nothing_and_a_later_token_does(attention):
    model, tokenizer = build(attention, "llama")
    ids_BL = torch.randint(97, 123, (2, 24), generator=torch.Generator().manual_seed(3))
    ids_BL[:, 8] = tokenizer.mask_token_id
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[0, :4], mask_BL[1, 20:] = 0, 0
    other_BL = ids_BL.where(mask_BL != 0, 65)
    at = torch.tensor([8, 24 + 8])
    seen, padded = (model(i, attention_mask=mask_BL, positions=at).logits for i in (ids_BL, other_BL))
    torch.testing.assert_close(seen, padded, rtol=0, atol=1e-6)
    later_BL = ids_BL.clone()
    later_BL[:, 15] = 65
    changed = model(later_BL, attention_mask=mask_BL, positions=at).logits
    finite = seen.isfinite()
    assert (changed - seen)[finite].abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "where", "sentence"),
    [
        ("sdpaa", {}, r"must be one of eager, .*sdpa.*, got 'sdpaa'; did you mean 'sdpa'\?"),
        ("flex_attention", {"on_cpu": True}, "flex_attention does not train on a CPU; use sdpa"),
        ("flash_attention_2", {"on_cpu": True}, "flash_attention_2 runs on GPUs only, .*; use sdpa"),
        ("flash_attention_3", {"on_cpu": False, "half": False}, "half precision only; add --bf16, or use sdpa"),
    ],
)
def test_what_cannot_run_is_told_in_a_sentence(name, where, sentence):
    with pytest.raises(UserError, match=sentence):
        check_attention(name, **{"on_cpu": False, "half": True, **where})


def test_a_kernel_without_its_package_is_told_in_a_sentence():
    from transformers.utils import is_flash_attn_2_available, is_kernels_available

    if is_flash_attn_2_available() or is_kernels_available():
        pytest.skip("it is installed")
    with pytest.raises(UserError, match="flash_attention_2 needs the package flash-attn, which is not installed"):
        check_attention("flash_attention_2", on_cpu=False, half=True)


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_what_torch_brings_is_let_through(name):
    check_attention(name, on_cpu=True, half=False)
    check_attention("flex_attention", on_cpu=False, half=False)
    check_attention("kernels-community/flash-attn", on_cpu=False, half=True)  # transformers looks for it
