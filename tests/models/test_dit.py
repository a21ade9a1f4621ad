"""The diffusion transformer of MDLM against a plain statement of its equations, and as a backbone like any other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.masked_diffusion.dit_backbone import DiTModel
from hf_difflm.models.masked_diffusion.dit_configuration import DiTConfig
from hf_difflm.models.options import ModelOptions

VOCABULARY, MASK, LENGTH, WIDTH, HEADS, BLOCKS = 30, 29, 9, 16, 2, 3
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "conditioning_size": 12,
    "frequency_embedding_size": 10,
    "max_position_embeddings": 32,
    "dropout": 0.0,
}
SMALL = ModelOptions(backbone="dit", hidden_size=16, num_hidden_layers=2, num_attention_heads=2)


def build(tied: bool = False, attention: str = "sdpa", **changes: Any) -> MaskedDiffusionForMaskedLM:
    config = MaskedDiffusionConfig(
        backbone_config=DiTConfig(**{**SIZES, **changes}), mask_token_id=MASK, tie_word_embeddings=tied
    )
    config._attn_implementation = attention
    model = MaskedDiffusionForMaskedLM(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # a fresh network is the identity
    return model.eval()


def partly_masked() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    clean = torch.randint(0, MASK, (2, LENGTH), generator=generator)
    ids = clean.masked_fill(torch.rand(2, LENGTH, generator=generator) < 0.5, MASK)
    ids[:, 3] = MASK
    return ids


def equations(weights: dict[str, torch.Tensor], ids: torch.Tensor, sigma: float = 0.0) -> torch.Tensor:
    """(L, V) logits of one sequence: MDLM's network, token by token and head by head, in float64.

    ``weights`` are under our names; the mathematics is that of DiT (arXiv 2212.09748, figure 3) with rotary positions.
    """
    w = {name: value.double() for name, value in weights.items()}
    length, k = len(ids), WIDTH // HEADS

    def norm(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean()
        return centred / torch.sqrt((centred**2).mean() + 1e-5) * scale

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", torch.zeros(()))

    def silu(x: torch.Tensor) -> torch.Tensor:
        return x / (1 + torch.exp(-x))

    def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def rotated(x: torch.Tensor, position: int) -> torch.Tensor:
        turned = x.clone()
        for pair in range(k // 2):
            angle = position * 10000.0 ** (-2 * pair / k)
            a, b = x[pair], x[pair + k // 2]
            turned[pair] = a * math.cos(angle) - b * math.sin(angle)
            turned[pair + k // 2] = a * math.sin(angle) + b * math.cos(angle)
        return turned

    half = SIZES["frequency_embedding_size"] // 2
    angles = [sigma * math.exp(-math.log(10000.0) * i / half) for i in range(half)]
    waves = torch.tensor([*(math.cos(a) for a in angles), *(math.sin(a) for a in angles)], dtype=torch.float64)
    c = silu(linear("backbone.sigma_map.mlp.2", silu(linear("backbone.sigma_map.mlp.0", waves))))

    x = [w["backbone.vocab_embed.weight"][token] for token in ids]
    for block in range(BLOCKS):
        at = f"backbone.blocks.{block}."
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(f"{at}adaLN_modulation", c).split(WIDTH)
        qkv = [linear(f"{at}attn_qkv", norm(row, w[f"{at}norm1.weight"]) * (1 + scale1) + shift1) for row in x]
        mixed = []
        for i in range(length):
            heads = []
            for head in range(HEADS):
                q, keys, values = (
                    [row[part * WIDTH + head * k : part * WIDTH + (head + 1) * k] for row in qkv] for part in range(3)
                )
                scores = torch.stack([rotated(q[i], i) @ rotated(keys[j], j) / math.sqrt(k) for j in range(length)])
                heads.append(sum(p * v for p, v in zip(scores.softmax(0), values, strict=True)))
            mixed.append(torch.cat(heads))
        x = [row + gate1 * linear(f"{at}attn_out", m) for row, m in zip(x, mixed, strict=True)]
        for i, row in enumerate(x):
            seen = norm(row, w[f"{at}norm2.weight"]) * (1 + scale2) + shift2
            x[i] = row + gate2 * linear(f"{at}mlp.2", gelu_tanh(linear(f"{at}mlp.0", seen)))
    shift, scale = linear("backbone.output_layer.adaLN_modulation", c).split(WIDTH)
    final = [norm(row, w["backbone.output_layer.norm_final.weight"]) * (1 + scale) + shift for row in x]
    return torch.stack([linear("lm_head", row) for row in final])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_the_equations(attention):
    model, ids = build(attention=attention), partly_masked()
    logits = model(ids).logits
    for row in range(2):
        expected = equations(model.state_dict(), ids[row])
        hidden = ids[row] == MASK
        torch.testing.assert_close(
            logits[row, hidden][:, :MASK].double(), expected[hidden][:, :MASK], rtol=1e-4, atol=1e-4
        )


def test_a_noise_level_conditions_every_norm_as_in_the_equations():
    model, ids = build(), partly_masked()
    hidden = model.backbone(ids, sigma=torch.tensor([0.7, 2.5])).last_hidden_state
    for row, sigma in enumerate((0.7, 2.5)):
        expected = equations(model.state_dict(), ids[row], sigma)
        torch.testing.assert_close(model.lm_head(hidden[row]).double(), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(hidden, model.backbone(ids).last_hidden_state, atol=1e-3)


def test_the_default_sizes_are_those_of_the_published_model():
    """The names and shapes of kuleshov-group/mdlm, models/dit.py, counted from its configuration small.yaml."""
    with torch.device("meta"):
        model = MaskedDiffusionForMaskedLM(
            MaskedDiffusionConfig(backbone_config=DiTConfig(), tie_word_embeddings=False)
        )
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    d, c, v = 768, 128, 50258
    block = {
        "norm1.weight": (d,),
        "attn_qkv.weight": (3 * d, d),
        "attn_out.weight": (d, d),
        "norm2.weight": (d,),
        "mlp.0.weight": (4 * d, d),
        "mlp.0.bias": (4 * d,),
        "mlp.2.weight": (d, 4 * d),
        "mlp.2.bias": (d,),
        "adaLN_modulation.weight": (6 * d, c),
        "adaLN_modulation.bias": (6 * d,),
    }
    assert shapes == {
        "backbone.vocab_embed.weight": (v, d),
        "backbone.sigma_map.mlp.0.weight": (c, 256),
        "backbone.sigma_map.mlp.0.bias": (c,),
        "backbone.sigma_map.mlp.2.weight": (c, c),
        "backbone.sigma_map.mlp.2.bias": (c,),
        **{f"backbone.blocks.{i}.{name}": shape for i in range(12) for name, shape in block.items()},
        "backbone.output_layer.norm_final.weight": (d,),
        "backbone.output_layer.adaLN_modulation.weight": (2 * d, c),
        "backbone.output_layer.adaLN_modulation.bias": (2 * d,),
        "lm_head.weight": (v, d),
        "lm_head.bias": (v,),
    }


def test_a_fresh_network_is_the_identity_between_embedding_and_last_norm():
    torch.manual_seed(0)
    model = DiTModel(DiTConfig(**SIZES)).eval()
    ids = partly_masked()
    expected = torch.nn.functional.layer_norm(model.vocab_embed(ids), (WIDTH,))
    torch.testing.assert_close(model(ids).last_hidden_state, expected)
    assert not any(p.any() for name, p in model.named_parameters() if "adaLN" in name)
    assert model.blocks[0].attn_qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_no_prediction(side, attention):
    model, ids = build(attention=attention), partly_masked()
    widths = (4, 0) if side == "left" else (0, 4)
    padded = torch.nn.functional.pad(ids, widths, value=5)
    mask = torch.nn.functional.pad(torch.ones_like(ids), widths)
    logits = model(padded, attention_mask=mask).logits
    kept = logits[:, 4:] if side == "left" else logits[:, :LENGTH]
    torch.testing.assert_close(kept, model(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_saved_and_loaded_it_is_bit_for_bit_the_same(tied, tmp_path):
    model, ids = build(tied), partly_masked()
    model.save_pretrained(tmp_path)
    loaded = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path)
    assert type(loaded.backbone) is DiTModel
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert (loaded.lm_head.weight is loaded.backbone.vocab_embed.weight) is tied


def test_the_head_runs_at_labelled_positions_only_and_gradients_reach_every_parameter():
    model, ids = build(), partly_masked()
    labels = torch.full_like(ids, 7).masked_fill(ids != MASK, -100)
    rows: list[int] = []
    plain = model._head
    model._head = lambda hidden_ND, *kept: (rows.append(len(hidden_ND)), plain(hidden_ND, *kept))[1]
    output = model.train()(ids, labels=labels)
    output.loss.backward()
    assert rows == [int((ids == MASK).sum())]
    full = torch.nn.functional.cross_entropy(model(ids).logits[ids == MASK], labels[ids == MASK])
    torch.testing.assert_close(output.loss, full)
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_activation_checkpointing_gives_the_same_gradients():
    ids = partly_masked()
    labels = torch.full_like(ids, 7).masked_fill(ids != MASK, -100)
    gradients = []
    for checkpointing in (False, True):
        model = build().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


def test_bfloat16_trains_as_weights_and_as_autocast():
    ids = partly_masked()
    labels = torch.full_like(ids, 7).masked_fill(ids != MASK, -100)
    exact = float(build()(ids, labels=labels).loss.detach())
    half = build().to(torch.bfloat16)(ids, labels=labels).loss
    with torch.autocast("cpu", torch.bfloat16):
        mixed = build()(ids, labels=labels).loss
    assert half.dtype == mixed.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(exact, rel=0.05)
    assert float(mixed.detach()) == pytest.approx(exact, rel=0.05)


def test_hidden_states_and_attentions_can_be_had():
    output = build(attention="eager")(partly_masked(), output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == BLOCKS + 1
    assert [tuple(weights.shape) for weights in output.attentions] == [(2, HEADS, LENGTH, LENGTH)] * BLOCKS
    torch.testing.assert_close(output.attentions[0].sum(-1), torch.ones(2, HEADS, LENGTH))


def test_dropout_is_drawn_in_training_alone():
    model, ids = build(dropout=0.5), partly_masked()
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_it_is_built_from_the_options_and_fills_masks(tokenizer):
    torch.manual_seed(0)
    model = build_denoiser(SMALL, tokenizer, 32).eval()
    assert model.config.backbone_config.model_type == "dit"
    assert model.config.backbone_config.dropout == 0.0
    assert model.backbone.blocks[0].mlp[0].out_features == 4 * 16
    prompt = torch.tensor([[256, 97, 259, 98]])
    text = model.generate(prompt, max_new_tokens=4, seed=0, sampler="ddpm_cache")
    assert text.shape == (1, 8)
    assert not (text == tokenizer.mask_token_id).any()
    assert text[0, [0, 1, 3]].tolist() == [256, 97, 98]


def test_it_has_no_autoregressive_twin(tokenizer):
    with pytest.raises(UserError, match="no causal LM"):
        build_causal_lm(SMALL, tokenizer, 32)


def test_heads_that_do_not_halve_are_refused(tokenizer):
    with pytest.raises(UserError, match="num_attention_heads"):
        build_denoiser(ModelOptions(backbone="dit", hidden_size=12, num_attention_heads=4), tokenizer, 32)


def test_its_conditioning_is_worked_out_once_for_all_sequences():
    """So that time conditioning, which is off, costs nothing beside the layers."""
    model = build()
    costs = []
    for batch in (1, 2):
        with FlopCounterMode(display=False) as counter:
            model.backbone.sigma_map(torch.zeros(1))
            model.backbone(partly_masked()[:batch])
        costs.append(counter.get_total_flops())
    conditioning = 2 * 2 * (10 * 12 + 12 * 12) + 2 * 12 * (6 * BLOCKS + 2) * WIDTH
    tokens = BLOCKS * 2 * LENGTH * (4 + 8) * WIDTH**2
    attention = BLOCKS * 4 * WIDTH * LENGTH**2
    assert costs[1] - costs[0] in (tokens, tokens + attention)  # sdpa on a CPU may go uncounted
    assert costs[0] - (costs[1] - costs[0]) == conditioning
