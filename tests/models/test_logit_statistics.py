"""What samplers ask of distributions: tile by tile the same as from softmax, with logits that exist and that do not."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion import logit_statistics
from hf_difflm.models.masked_diffusion.generation_random import draw_tokens
from hf_difflm.models.masked_diffusion.logit_statistics import HeadLogits, Predictions, may_delay_head
from hf_difflm.models.masked_diffusion.sampler_names import OWN_SAMPLERS

ROWS, WIDTH, VOCABULARY, MASK = 7, 8, 41, 17


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles both ways, the last ones narrower: 41 columns are 5 tiles of 8 and one of 1."""
    monkeypatch.setattr(logit_statistics, "TILE_ROWS", 3)
    monkeypatch.setattr(logit_statistics, "TILE_COLUMNS", 8)


def both(bias: bool = True, scale: float = 2.0) -> tuple[torch.Tensor, dict[str, Predictions]]:
    """Float64 logits and what is asked of them, made and not."""
    generator = torch.Generator().manual_seed(0)
    hidden_ND = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    weight_VD = scale * torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    bias_V = torch.randn(VOCABULARY, generator=generator, dtype=torch.float64) if bias else None
    logits_NV = hidden_ND @ weight_VD.T + (0 if bias_V is None else bias_V)
    logits_NV[:, MASK] = float("-inf")
    return logits_NV, {
        "made": Predictions(logits_NV),
        "of a head": Predictions(HeadLogits(hidden_ND, weight_VD, bias_V, MASK)),
    }


@pytest.mark.parametrize("kind", ["made", "of a head"])
@pytest.mark.parametrize("bias", [True, False])
def test_all_quantities_are_those_of_softmax(kind, bias):
    logits_NV, predictions = both(bias)
    p_NV, asked = logits_NV.softmax(-1), predictions[kind]
    two_N2 = p_NV.topk(2).values
    tokens_N = torch.arange(ROWS)
    torch.testing.assert_close(asked.largest_probability(), two_N2[:, 0])
    torch.testing.assert_close(asked.entropy(), torch.special.entr(p_NV).sum(-1))
    torch.testing.assert_close(asked.margin(), two_N2[:, 0] - two_N2[:, 1])
    torch.testing.assert_close(asked.sum_of_squares(), p_NV.square().sum(-1))
    torch.testing.assert_close(asked.log_probability(tokens_N), p_NV.log()[range(ROWS), tokens_N])
    torch.testing.assert_close(asked.largest(), logits_NV.amax(-1))
    torch.testing.assert_close(asked.logits.made(), logits_NV)
    assert asked.best().tolist() == logits_NV.argmax(-1).tolist()
    some = torch.tensor([5, 1])
    torch.testing.assert_close(asked.select(some).entropy(), torch.special.entr(p_NV).sum(-1)[some])
    assert asked.log_probability(torch.full((ROWS,), MASK)).tolist() == [-math.inf] * ROWS


@pytest.mark.parametrize("temperature", [1.0, 0.5, 30.0])
@pytest.mark.parametrize("kind", ["made", "of a head"])
def test_a_draw_in_two_steps_is_the_draw_in_one(kind, temperature):
    logits_NV, predictions = both()
    for seed in range(300):
        uniform_N = torch.rand(ROWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        asked = predictions[kind].select(torch.arange(ROWS))
        if seed % 2:
            asked.entropy()  # a pass before that knows of no temperature
        assert asked.draw(uniform_N, temperature).tolist() == draw_tokens(logits_NV / temperature, uniform_N).tolist()


def test_a_cut_is_made_after_the_temperature_and_row_by_row(monkeypatch):
    logits_NV, predictions = both()
    monkeypatch.setattr(logit_statistics, "_MOST_MADE", 2 * VOCABULARY)
    seen = []

    def likeliest(rows, logits_RV):
        torch.testing.assert_close(logits_RV, logits_NV[rows] / 2)
        seen.append(rows.tolist())
        return logits_RV.where(logits_RV == logits_RV.amax(-1, keepdim=True), -math.inf)

    drawn = predictions["of a head"].draw(torch.full((ROWS,), 0.9999, dtype=torch.float64), 2.0, likeliest)
    assert drawn.tolist() == logits_NV.argmax(-1).tolist()
    assert seen == [[0, 1], [2, 3], [4, 5], [6]]


def test_tiles_without_probability_are_nothing_and_rows_without_are_seen():
    one = torch.full((3, VOCABULARY), -math.inf)
    one[0, 30] = 2.0  # all tiles but one are empty
    one[1, 3], one[1, 33] = 5000.0, 4999.0  # far beyond what exp takes
    predictions = Predictions(one)
    assert predictions.entropy()[0] == 0
    for of_one in (predictions.largest_probability, predictions.margin, predictions.sum_of_squares):
        assert of_one()[0] == 1
    torch.testing.assert_close(predictions.entropy()[1], torch.special.entr(one[1].softmax(-1)).sum())
    assert predictions.draw(torch.full((3,), 0.999, dtype=torch.float64))[:2].tolist() == [30, 33]
    assert predictions.largest().isfinite().tolist() == [True, True, False]
    for broken in (math.nan, math.inf):
        one[2, 20] = broken
        assert not Predictions(one).largest().isfinite()[2]


def model(vocabulary: int = 60, **settings) -> MaskedDiffusionForMaskedLM:
    backbone = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    denoiser = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, bos_token_id=0, **settings))
    with torch.no_grad():  # far from uniform, and from alike at any two masks, whose order would be that of rounding
        for weight in denoiser.parameters():
            weight += 0.5 * torch.randn_like(weight)
    return denoiser.eval()


@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        *((sampler, {}) for sampler in OWN_SAMPLERS),
        ("low_confidence", {"do_sample": False}),
        ("low_confidence", {"temperature": 0.7}),
        ("low_confidence", {"top_k": 5, "temperature": 1.5}),
        ("topk_margin", {"top_k": 5, "temperature": 1.5}),
        ("entropy", {"temperature": 0.7, "diffusion_block_size": 8}),
        ("ddpm_cache", {"diffusion_block_size": 8}),
        ("uncertainty", {"sampler_config": {"measure": "variance"}}),
        ("uncertainty", {"sampler_config": {"measure": "margin"}}),
    ],
)
def test_a_delayed_head_changes_no_text(sampler, settings, monkeypatch):
    settings = dict(settings)
    denoiser = model(head_bias=True, diffusion_block_size=settings.pop("diffusion_block_size", None))
    passes, at_once = [], {}
    forward = MaskedDiffusionForMaskedLM.forward

    def counted(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        passes.append(output.head_inputs is not None)
        return output

    monkeypatch.setattr(MaskedDiffusionForMaskedLM, "forward", counted)
    for most in (0, 2**20):
        monkeypatch.setattr(logit_statistics, "_MOST_MADE", most)
        passes.clear()
        at_once[most] = denoiser.generate(
            torch.tensor([[0], [3], [4]]),
            max_new_tokens=19,
            max_denoising_steps=12,
            sampler=sampler,
            seed=1,
            **settings,
        )
        assert any(passes) == (most == 0)
    assert at_once[0].tolist() == at_once[2**20].tolist()


def test_the_head_is_delayed_only_where_nobody_else_wants_its_logits(monkeypatch):
    monkeypatch.setattr(logit_statistics, "_MOST_MADE", 100)
    plain = model()
    assert may_delay_head(plain, 2)
    assert not may_delay_head(plain, 1)

    class Louder(MaskedDiffusionForMaskedLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 2
            return output

    louder = Louder(plain.config).eval()
    assert not may_delay_head(louder, 2)
    hooked = model()
    hooked.register_forward_hook(lambda module, given, output: None)
    assert not may_delay_head(hooked, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not may_delay_head(plain, 2)
    positions = torch.arange(4)
    masks = torch.full((1, 4), plain.config.mask_token_id)
    with torch.no_grad():
        assert plain(masks, positions=positions, delay_head=True).head_inputs.shape == (4, 16)
        called = model()
        called.lm_head.register_forward_hook(lambda module, given, output: output + 1)
        assert called(masks, positions=positions, delay_head=True).logits.shape == (4, 60)
        halved = model().bfloat16()
        assert halved(masks, positions=positions, delay_head=True).logits.shape == (4, 60)
