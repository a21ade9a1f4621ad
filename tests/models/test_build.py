"""Both sides of a comparison are built from one set of options, and have the same parameters."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.models.options import ModelOptions

SMALL = ModelOptions(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)


def options(**changes) -> ModelOptions:
    return dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("backbone", ["llama", "qwen3", "gpt2"])
def test_denoiser_and_causal_twin_have_equally_many_parameters(backbone, tied, tokenizer):
    chosen = options(backbone=backbone, tie_word_embeddings=tied)
    denoiser = build_denoiser(chosen, tokenizer, 32, NoiseSchedule("cosine"))
    twin = build_causal_lm(chosen, tokenizer, 32)
    assert denoiser.num_parameters() == twin.num_parameters()
    assert denoiser.config.vocab_size == twin.config.vocab_size == len(tokenizer)
    assert denoiser.config.schedule() == NoiseSchedule("cosine")


@pytest.mark.parametrize("backbone", ["llama", "qwen3", "gpt2"])
def test_the_twin_stays_causal_and_the_denoiser_sees_both_sides(backbone, tokenizer):
    chosen = options(backbone=backbone)
    denoiser = build_denoiser(chosen, tokenizer, 32, NoiseSchedule()).eval()
    twin = build_causal_lm(chosen, tokenizer, 32).eval()
    ids = torch.full((1, 8), tokenizer.mask_token_id)
    other = ids.clone()
    other[0, 7] = 97
    keep = [i for i in range(len(tokenizer)) if i != tokenizer.mask_token_id]
    assert torch.equal(twin(ids).logits[:, :7], twin(other).logits[:, :7])
    assert not torch.equal(denoiser(ids).logits[:, 0, keep], denoiser(other).logits[:, 0, keep])


@pytest.mark.parametrize("backbone", ["llama", "gpt2", "modernbert"])
def test_nothing_is_dropped_out(backbone, tokenizer):
    model = build_denoiser(options(backbone=backbone), tokenizer, 32, NoiseSchedule()).train()
    ids = torch.full((1, 8), tokenizer.mask_token_id)
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_further_keys_reach_the_backbone(tokenizer):
    model = build_denoiser(options(backbone_config={"rms_norm_eps": 0.125}), tokenizer, 32, NoiseSchedule())
    assert model.config.backbone_config.rms_norm_eps == 0.125


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": "lama"}, r"'lama'.*did you mean 'llama'"),
        ({"hidden_size": 15}, r"hidden_size 15.*num_attention_heads 2"),
        ({"max_position_embeddings": 31}, r"block_size 32.*31"),
        ({"backbone_config": {"rope_thetta": 1.0}}, "rope_thetta"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(changes, said, tokenizer):
    for build in (
        lambda: build_denoiser(options(**changes), tokenizer, 32, NoiseSchedule()),
        lambda: build_causal_lm(options(**changes), tokenizer, 32),
    ):
        with pytest.raises(UserError, match=said) as error:
            build()
        assert "\n" not in str(error.value)


def test_an_encoder_has_no_autoregressive_twin(tokenizer):
    with pytest.raises(UserError, match="modernbert"):
        build_causal_lm(options(backbone="modernbert"), tokenizer, 32)
