"""A row is the same alone and beside others that are longer, on whichever side it is padded, in every family."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.backbones.check import verdict_on
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.options import ModelOptions
from hf_difflm.training.launch.processes import check_sharding

LENGTH = 16
# With learned positions, those that begin behind the pad token or at 2 among them, and with a bias by distance ...
BY_POSITION = ["opt", "xglm", "biogpt", "bloom", "gpt2", "bert", "roberta", "xlm-roberta-xl", "data2vec-text", "mpnet"]
BY_POSITION += ["ibert", "luke", "longformer", "roberta-prelayernorm"]
# ... and those in which padding is read: as a token of a Fourier transform, a landmark, a state, by a decoder.
ONE_BY_ONE = ["fnet", "nystromformer", "yoso", "bart", "mbart", "recurrent_gemma", "cpmant"]

RECURRENT = {"lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "attention"]}


def build(backbone: str, tokenizer, **fields) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(0)
    options = ModelOptions(
        backbone=backbone, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, backbone_config=fields
    )
    model = build_denoiser(options, tokenizer, LENGTH, allow_causal_layers=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3 if parameter.dim() < 2 else parameter.shape[-1] ** -0.5)
    return model


def padded(rows: list[torch.Tensor], side: str, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = torch.full((len(rows), LENGTH), pad), torch.zeros(len(rows), LENGTH, dtype=torch.long)
    for row, tokens in enumerate(rows):
        place = slice(0, len(tokens)) if side == "right" else slice(LENGTH - len(tokens), LENGTH)
        ids[row, place], mask[row, place] = tokens, 1
    return ids, mask


@pytest.mark.borders
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("backbone", BY_POSITION + ONE_BY_ONE)
def test_a_padded_row_gives_what_it_gives_alone(tokenizer, backbone, side):
    model = build(backbone, tokenizer, **RECURRENT if backbone == "recurrent_gemma" else {})
    assert model.config.reads_padding is (backbone in ONE_BY_ONE)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(97, 123, (length,), generator=generator) for length in (LENGTH, 9, 12)]
    for row in rows:
        row[3], row[7] = model.config.mask_token_id, model.config.mask_token_id
    ids, mask = padded(rows, side, tokenizer.pad_token_id)
    labels = torch.where(ids == model.config.mask_token_id, 100, -100)
    together = model(ids, attention_mask=mask).logits
    terms = model(ids, attention_mask=mask, labels=labels).token_nll
    expected = []
    for row, tokens in enumerate(rows):
        alone = model(tokens[None]).logits[0]
        torch.testing.assert_close(together[row][mask[row] == 1], alone, rtol=1e-4, atol=1e-4)
        expected.append(-alone.log_softmax(-1)[[3, 7], 100])
    torch.testing.assert_close(terms, torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.borders
def test_the_gradient_of_rows_that_go_one_by_one_is_that_of_each_alone(tokenizer):
    model = build("fnet", tokenizer)
    mask_id = model.config.mask_token_id
    rows = [torch.full((length,), mask_id) for length in (LENGTH, 9)]
    ids, mask = padded(rows, "right", tokenizer.pad_token_id)
    model(ids, attention_mask=mask, labels=torch.where(mask == 1, 100, -100)).loss.backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row in rows:
        weights = torch.full((1, 1), 1 / (LENGTH + 9))
        model(row[None], labels=torch.full((1, len(row)), 100), loss_weights=weights).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, rtol=1e-4, atol=1e-5)


def test_rows_that_go_one_by_one_hand_out_hidden_states_and_no_attentions(tokenizer):
    model = build("fnet", tokenizer)
    ids, mask = padded([torch.arange(97, 97 + length) for length in (LENGTH, 9)], "left", tokenizer.pad_token_id)
    outputs = model(ids, attention_mask=mask, output_hidden_states=True)
    assert [part.shape for part in outputs.hidden_states] == [(2, LENGTH, 32)] * 3
    assert not outputs.hidden_states[-1][1, : LENGTH - 9].any()
    with pytest.raises(ValueError, match="no attentions"):
        model(ids, attention_mask=mask, output_attentions=True)


@pytest.mark.borders
@pytest.mark.parametrize("backbone", ["roberta", "camembert", "mpnet", "longformer", "nystromformer"])
def test_a_network_takes_as_many_tokens_as_it_says(tokenizer, backbone):
    """Rows of the position embeddings that no token has come on top."""
    options = ModelOptions(
        backbone=backbone, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=LENGTH
    )
    model = build_denoiser(options, tokenizer, LENGTH)
    assert model.config.max_position_embeddings == LENGTH
    ids = torch.full((1, LENGTH), 97)
    assert torch.isfinite(model(ids, attention_mask=torch.ones_like(ids)).logits[..., 97]).all()


@pytest.mark.borders
def test_a_twin_in_which_padding_changes_a_row_is_refused(tokenizer):
    options = ModelOptions(backbone="doge", hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    with pytest.raises(UserError, match="'doge' gives something else for a row that is padded"):
        build_causal_lm(options, tokenizer, LENGTH)


@pytest.mark.borders
@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_processes_that_share_weights_read_no_rows_one_by_one(engine):
    check_sharding(engine, ema=False)
    check_sharding("ddp", ema=False, reads_padding=True)
    with pytest.raises(UserError, match=r"accelerate_configs/ddp\.yaml"):
        check_sharding(engine, ema=False, reads_padding=True)


def test_what_padding_does_is_measured_on_the_network_as_it_is(tokenizer):
    """The configuration that says so does not change the verdict on the next."""
    model = build("fnet", tokenizer)
    assert MaskedDiffusionConfig.from_dict(model.config.to_dict()).reads_padding is True
    assert verdict_on(model.config.backbone_config, causal=False).reads_padding
    assert not verdict_on(AutoConfig.for_model("bert", hidden_size=48), causal=False).reads_padding
