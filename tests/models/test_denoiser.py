"""The denoiser on every backbone: both directions, SUBS, padding by position, kernels, precision, round trips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

VOCABULARY, MASK, LENGTH = 40, 39, 9
SIZES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "qwen3": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    },
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "modernbert": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}
every_backbone = pytest.mark.parametrize("backbone", SIZES)
tied_or_not = pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])


def build(backbone: str, tied: bool = True, attention: str = "sdpa", **config: Any) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if backbone == "modernbert":
        special |= {"cls_token_id": None, "sep_token_id": None}
    sizes = AutoConfig.for_model(backbone, vocab_size=VOCABULARY, **special, **SIZES[backbone])
    made = MaskedDiffusionConfig(backbone_config=sizes, mask_token_id=MASK, tie_word_embeddings=tied, **config)
    made._attn_implementation = attention
    model = MaskedDiffusionForMaskedLM(made)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # far from the symmetries of a fresh network
    return model.eval()


def partly_masked(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    clean = torch.randint(3, MASK, (batch, LENGTH), generator=generator)
    hidden = torch.rand(batch, LENGTH, generator=generator) < 0.5
    hidden[:, 3] = True
    return clean.masked_fill(hidden, MASK), clean.masked_fill(~hidden, -100)


@every_backbone
@tied_or_not
def test_saved_and_loaded_it_is_bit_for_bit_the_same(backbone, tied, tmp_path):
    model = build(backbone, tied, noise_schedule="cosine", eos_token_id=2)
    model.save_pretrained(tmp_path)
    ids, _ = partly_masked()
    for loaded in (
        MaskedDiffusionForMaskedLM.from_pretrained(tmp_path),
        AutoModelForMaskedLM.from_pretrained(tmp_path),
    ):
        assert type(loaded) is MaskedDiffusionForMaskedLM
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        shared = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
        assert shared is tied
        ours, theirs = (m.config.to_dict() for m in (loaded, model))
        for volatile in ("architectures", "dtype", "torch_dtype", "_name_or_path"):
            for config in (ours, theirs, ours["backbone_config"], theirs["backbone_config"]):
                config.pop(volatile, None)
        assert ours == theirs


def test_a_saved_folder_needs_no_pickle_and_names_its_kind(tmp_path):
    build("llama").save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    assert AutoConfig.from_pretrained(tmp_path).model_type == "masked_diffusion"


@every_backbone
def test_a_later_token_changes_an_earlier_prediction(backbone):
    model = build(backbone)
    ids, _ = partly_masked()
    ids[:, 3] = MASK
    other = ids.clone()
    other[:, 7] = (ids[:, 7].where(ids[:, 7] != MASK, 5) + 1) % MASK
    difference = (model(ids).logits[:, 3] - model(other).logits[:, 3])[:, :MASK].abs().max()
    assert difference > 1e-4


@every_backbone
def test_subs_never_predicts_the_mask_and_copies_what_is_revealed(backbone):
    ids, _ = partly_masked()
    probabilities = build(backbone)(ids).logits.softmax(-1)
    assert not probabilities[..., MASK].any()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(ids.shape))
    revealed = ids != MASK
    copied = torch.nn.functional.one_hot(ids, VOCABULARY).float()
    assert torch.equal(probabilities[revealed], copied[revealed])
    assert (probabilities[~revealed].max(-1).values < 1).all()


@every_backbone
def test_sdpa_and_eager_attention_agree(backbone):
    ids, _ = partly_masked()
    attention_mask = torch.ones_like(ids)
    attention_mask[0, :4] = 0
    attention_mask[1, 6:] = 0
    hidden = (ids == MASK) & attention_mask.bool()
    for mask in (None, attention_mask):
        sdpa, eager = (build(backbone, attention=a)(ids, attention_mask=mask).logits for a in ("sdpa", "eager"))
        torch.testing.assert_close(sdpa[hidden], eager[hidden], rtol=1e-4, atol=1e-5)


@every_backbone
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_prediction_whatever_the_pad_token(backbone, side):
    """Padding is told by position: the pad token may be any token, one of the text's own too."""
    model = build(backbone)
    ids, _ = partly_masked()
    plain = model(ids).logits
    for pad in (0, int(ids[0, 0])):
        widths = (4, 0) if side == "left" else (0, 4)
        padded = torch.nn.functional.pad(ids, widths, value=pad)
        mask = torch.nn.functional.pad(torch.ones_like(ids), widths)
        logits = model(padded, attention_mask=mask).logits
        kept = logits[:, 4:] if side == "left" else logits[:, :LENGTH]
        torch.testing.assert_close(kept, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["llama", "qwen3", "gpt2"])
def test_the_causal_twin_has_the_same_parameters(backbone):
    for tied in (True, False):
        config = AutoConfig.for_model(backbone, vocab_size=VOCABULARY, tie_word_embeddings=tied, **SIZES[backbone])
        twin = AutoModelForCausalLM.from_config(config)
        assert build(backbone, tied).num_parameters() == twin.num_parameters()


def test_the_callers_backbone_configuration_is_left_as_it_was():
    """Else a causal LM built from the same object would silently see the future."""
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=False, **SIZES["llama"])
    before = config.to_dict()
    MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=config, mask_token_id=MASK))
    assert config.to_dict() == before
    causal = LlamaForCausalLM(config).eval()
    ids, _ = partly_masked()
    other = ids.clone()
    other[:, 7] = 4
    assert torch.equal(causal(ids).logits[:, :7], causal(other).logits[:, :7])


@every_backbone
def test_activation_checkpointing_gives_the_same_gradients(backbone):
    ids, labels = partly_masked()
    gradients = []
    for checkpointing in (False, True):
        model = build(backbone).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(ids, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@every_backbone
def test_bfloat16_autocast_keeps_the_loss_in_float32(backbone):
    model = build(backbone).train()
    ids, labels = partly_masked()
    exact = model(ids, labels=labels).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = model(ids, labels=labels, loss_weights=torch.ones(3, 1))
    assert output.loss.dtype == output.token_nll.dtype == torch.float32
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert float(output.token_nll.mean()) == pytest.approx(float(exact.detach()), rel=0.05)


def test_a_model_in_bfloat16_gives_a_float32_loss_too():
    ids, labels = partly_masked()
    output = build("llama").to(torch.bfloat16)(ids, labels=labels)
    assert output.loss.dtype == torch.float32
    assert output.loss.isfinite()


def test_the_vocabulary_can_be_resized_for_an_added_mask_token():
    model = build("gpt2")
    model.resize_token_embeddings(VOCABULARY + 2)
    model.config.mask_token_id = VOCABULARY + 1
    assert model.config.vocab_size == model.config.backbone_config.vocab_size == VOCABULARY + 2
    logits = model(torch.full((1, 4), VOCABULARY + 1)).logits
    assert logits.shape == (1, 4, VOCABULARY + 2)
    assert logits[..., VOCABULARY + 1].isneginf().all()
    assert logits[..., :VOCABULARY].isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mask_token_id": VOCABULARY}, str(VOCABULARY)),
        ({"mask_token_id": -1}, "-1"),
        ({"noise_schedule": "cos"}, "cos"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        MaskedDiffusionConfig(backbone_config=LlamaConfig(vocab_size=VOCABULARY, **SIZES["llama"]), **wrong)


def test_a_configuration_survives_json(tmp_path: Path):
    config = MaskedDiffusionConfig(
        backbone_config={"model_type": "qwen3", "vocab_size": 50, **SIZES["qwen3"]},
        mask_token_id=7,
        noise_schedule="polynomial",
        schedule_exponent=3.0,
        tie_word_embeddings=False,
    )
    config.save_pretrained(tmp_path)
    loaded = MaskedDiffusionConfig.from_pretrained(tmp_path)
    assert loaded.schedule() == config.schedule()
    assert (loaded.mask_token_id, loaded.vocab_size, loaded.hidden_size) == (7, 50, 16)
    assert loaded.tie_word_embeddings is loaded.backbone_config.tie_word_embeddings is False
    assert loaded.backbone_config.is_causal is False
