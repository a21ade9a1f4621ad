"""Block diffusion is admitted where it is what it says on a network, and refused in a sentence where it is not."""

from __future__ import annotations

import copy

import pytest
import torch
from small_backbones import small
from transformers import AutoConfig, DynamicCache

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.backbones.blocks import why_no_blocks
from hf_difflm.models.backbones.check import check_backbone, check_loaded, check_model
from hf_difflm.models.backbones.measure import measure
from hf_difflm.models.masked_diffusion import diffusion_blocks


def tiny_denoiser(kernel: str = "sdpa") -> MaskedDiffusionForMaskedLM:
    config = MaskedDiffusionConfig(backbone_config=small("llama"), mask_token_id=127)
    config._attn_implementation = kernel
    torch.manual_seed(0)
    model = MaskedDiffusionForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("backbone", "fields"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("gpt2", {}),
        ("bert", {}),
        ("stablelm", {}),
        ("mistral", {"sliding_window": 64, "max_position_embeddings": 64}),  # no shorter than the text
        ("mixtral", {"num_local_experts": 4}),
    ],
)
def test_a_backbone_whose_masks_are_its_attention_is_taken(backbone, fields, kernel):
    check_backbone(small(backbone, **fields), causal=False, kernel=kernel, blocks=True)


@pytest.mark.parametrize(
    ("backbone", "fields", "why"),
    [
        ("mistral", {"sliding_window": 24}, "it reads 24 each way, and windows are not there yet"),
        ("gemma2", {"sliding_window": 24}, "it reads 24 each way in 1 of 2 layers"),
        ("dit", {}, "it keeps no keys and values"),
        ("bdh", {}, "takes no cache"),
        ("bloom", {}, "it does not run block by block"),
    ],
)
def test_another_is_refused_in_a_sentence(backbone, fields, why):
    config = small(backbone, **fields)
    check_backbone(config, causal=False, allow_causal_layers=True)
    with pytest.raises(
        UserError, match=rf"^backbone '{backbone}' does not take block diffusion: .*{why}.*--objective mdlm$"
    ):
        check_backbone(config, causal=False, allow_causal_layers=True, blocks=True)


def test_a_convolution_over_the_text_is_refused_though_its_layers_may_be_causal():
    config = small("lfm2", intermediate_size=96, layer_types=["conv", "full_attention"])
    with pytest.raises(UserError, match="'lfm2' does not take block diffusion"):
        check_backbone(config, causal=False, allow_causal_layers=True, blocks=True)


def test_a_kernel_without_masks_of_blocks_is_refused():
    with pytest.raises(
        UserError,
        match="block diffusion does not run with attn_implementation flash_attention_2; use sdpa or eager or flex_attention",
    ):
        check_backbone(small("llama"), causal=False, kernel="flash_attention_2", blocks=True)


def test_it_is_asked_only_where_there_are_blocks():
    assert measure(small("dit"), causal=False).no_blocks is None


DECODERS = """llama qwen2 qwen3 mistral phi3 olmo2 smollm3 gpt2 gpt_neox glm4 gemma phi opt persimmon falcon cohere mixtral
granite minicpm3 deepseek_v3 nemotron stablelm starcoder2 cohere2 gemma3_text olmo3 exaone4 qwen3_moe"""


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", DECODERS.split())
@torch.no_grad()
def test_of_every_family_that_is_taken_all_ways_of_reading_are_one(family, kernel):
    windowed = hasattr(AutoConfig.for_model(family), "sliding_window")
    fields = {"sliding_window": 64, "max_position_embeddings": 64} if windowed else {}  # no shorter than the text
    config = small(family, **fields)
    check_backbone(config, causal=False, kernel=kernel, blocks=True)
    whole = MaskedDiffusionConfig(backbone_config=config, mask_token_id=127, diffusion_block_size=4)
    whole._attn_implementation = kernel
    torch.manual_seed(0)
    model = MaskedDiffusionForMaskedLM(whole).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    clean_BL = torch.randint(4, 127, (2, 14))
    noisy_BL = clean_BL.masked_fill(torch.rand(clean_BL.shape) < 0.5, 127)
    direct, cache = [], DynamicCache()
    for first in range(0, 14, 4):  # by hand: the block alone, after the blocks before, and no mask of blocks
        part, last = slice(first, first + 4), min(first + 4, 14)

        def read(ids_BQ, kept, first=first, last=last):
            seen = torch.ones(1, 1, last - first, last, dtype=torch.bool)
            return model.backbone(
                input_ids=ids_BQ,
                attention_mask=seen if kernel == "sdpa" else torch.zeros(seen.shape),
                position_ids=torch.arange(first, last)[None] + model.config.position_offset,
                past_key_values=kept,
                use_cache=True,
            ).last_hidden_state

        direct.append(read(noisy_BL[:, part], copy.deepcopy(cache)))
        read(clean_BL[:, part], cache)
    expected = torch.cat(direct, dim=1)
    for one_forward in (False, True):
        found, *_ = diffusion_blocks.noisy_hidden(
            model.backbone, noisy_BL, clean_BL, None, 4, model.config.position_offset, one_forward
        )
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max().clamp(min=1)
    cached = DynamicCache()
    model(clean_BL[:, :8], past_key_values=cached)
    logits = model(noisy_BL[:, 8:12], past_key_values=cached).logits
    by_hand = model._head(direct[2].flatten(0, 1)).unflatten(0, logits.shape[:2])
    hidden = noisy_BL[:, 8:12] == 127
    torch.testing.assert_close(logits[hidden], by_hand[hidden], rtol=1e-4, atol=1e-4)


# ---- what the probe sees, each wrong in one way ----


def test_the_probe_finds_nothing_wrong_where_nothing_is():
    assert why_no_blocks(tiny_denoiser()) is None
    assert why_no_blocks(tiny_denoiser("eager")) is None


def test_it_sees_a_bool_mask_that_is_added_to_the_scores(monkeypatch):
    monkeypatch.setattr(diffusion_blocks, "for_kernel", lambda seen_BQK, kernel, dtype: seen_BQK[:, None])
    assert why_no_blocks(tiny_denoiser()) is None
    assert why_no_blocks(tiny_denoiser("eager")) == "a token is predicted from the masks of another block"


def test_it_sees_the_text_that_is_to_be_predicted(monkeypatch):
    right = diffusion_blocks.before_and_own

    def itself_too(blocks_BL, attention_mask):
        _, noisy_BLL = right(blocks_BL, attention_mask).chunk(2, dim=-1)
        return torch.cat([diffusion_blocks.up_to_own_block(blocks_BL, None, blocks_BL.shape[1]), noisy_BLL], dim=-1)

    monkeypatch.setattr(diffusion_blocks, "before_and_own", itself_too)
    assert why_no_blocks(tiny_denoiser()) == "a token is predicted from the text of its own block or of a later one"


def test_it_sees_blocks_that_are_read_from_left_to_right(monkeypatch):
    right = diffusion_blocks.before_and_own

    def causal(blocks_BL, attention_mask):
        seen_BLS, length = right(blocks_BL, attention_mask), blocks_BL.shape[1]
        return seen_BLS & torch.ones(length, 2 * length, dtype=torch.bool).tril(length)

    monkeypatch.setattr(diffusion_blocks, "before_and_own", causal)
    assert why_no_blocks(tiny_denoiser()) == "a token is not predicted from the others of its block"


def test_it_sees_masks_of_other_blocks(monkeypatch):
    right = diffusion_blocks.before_and_own

    def all_noisy(blocks_BL, attention_mask):
        clean_BLL, _ = right(blocks_BL, attention_mask).chunk(2, dim=-1)
        return torch.cat([clean_BLL, torch.ones_like(clean_BLL)], dim=-1)

    monkeypatch.setattr(diffusion_blocks, "before_and_own", all_noisy)
    assert why_no_blocks(tiny_denoiser()) == "a token is predicted from the masks of another block"


def test_it_sees_a_cache_that_is_read_by_nobody(monkeypatch):
    right = diffusion_blocks.before_and_own

    def nothing_before(blocks_BL, attention_mask):
        clean_BLL, noisy_BLL = right(blocks_BL, attention_mask).chunk(2, dim=-1)
        return torch.cat([torch.zeros_like(clean_BLL), noisy_BLL], dim=-1)

    monkeypatch.setattr(diffusion_blocks, "before_and_own", nothing_before)
    assert why_no_blocks(tiny_denoiser()) == "a token is not predicted from the text of a block before it"


def test_it_sees_a_cache_that_does_not_go_back(monkeypatch):
    monkeypatch.setattr(DynamicCache, "crop", lambda self, tokens_to_remove: None)
    assert why_no_blocks(tiny_denoiser()) == "a block read twice from one cache gives something else"


# ---- wherever a model comes from ----


def model_with_blocks(backbone: str) -> MaskedDiffusionForMaskedLM:
    return MaskedDiffusionForMaskedLM(
        MaskedDiffusionConfig(backbone_config=small(backbone), mask_token_id=127, diffusion_block_size=8)
    )


def test_a_model_that_is_given_or_loaded_is_asked_too():
    check_model(model_with_blocks("llama"))
    check_loaded(model_with_blocks("llama"))
    for asked in (check_model, check_loaded):
        with pytest.raises(UserError, match="'bloom' does not take block diffusion"):
            asked(model_with_blocks("bloom"))
