"""Wherever texts of several lengths meet in a batch: each gets what it would get alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM, MBartConfig, MBartForCausalLM

from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation import texts
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.evaluation.likelihood.continuations import Request, Scorer
from hf_difflm.evaluation.quality.reference_model import check_reference, load_reference
from hf_difflm.evaluation.targets import load_target
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.options import ModelOptions

GREEDY = GenerationOptions(max_new_tokens=5, temperature=0.0)


@pytest.fixture
def fourier(tokenizer):
    """A denoiser that mixes positions by a Fourier transform, padding among them."""
    torch.manual_seed(0)
    options = ModelOptions(backbone="fnet", hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = build_denoiser(options, tokenizer, 64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.borders
def test_prompts_of_several_lengths_and_prompts_with_holes_are_as_alone(fourier, tokenizer):
    prompts = ["a", "a longer prompt", "in [MASK]{3} between", "[MASK]"]
    together = generate_samples(fourier, tokenizer, prompts, GREEDY)
    for row, (prompt, sample) in enumerate(zip(prompts, together, strict=True)):
        assert generate_samples(fourier, tokenizer, [prompt], GREEDY, first_row=row) == [sample]


@pytest.mark.borders
def test_prompts_of_a_causal_lm_that_reads_padding_on_the_left_are_as_alone(tokenizer, monkeypatch):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    model = MBartForCausalLM(
        MBartConfig(vocab_size=260, **sizes, is_decoder=True, dropout=0.0, tie_word_embeddings=False)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
        model.model.decoder.embed_positions.weight.normal_(std=2.0)
    prompts = ["a", "a longer prompt", "b"]
    alone = [generate_samples(model, tokenizer, [prompt], GREEDY)[0] for prompt in prompts]
    assert generate_samples(model, tokenizer, prompts, GREEDY) == alone
    monkeypatch.setattr(texts, "takes_left_padding", lambda model: True)
    assert generate_samples(model, tokenizer, prompts, GREEDY) != alone  # its positions count the padding


@pytest.mark.borders
def test_continuations_of_several_lengths_are_as_alone(fourier, tokenizer):
    generator = np.random.default_rng(0)
    requests = [
        Request(tuple(generator.integers(97, 123, context)), tuple(generator.integers(97, 123, continuation)))
        for context, continuation in ((3, 2), (9, 4), (20, 3))
    ]
    scorer = Scorer(fourier, tokenizer, is_denoiser=True, draws=8)
    together = scorer.log_likelihoods(requests)
    np.testing.assert_allclose(together, [scorer.log_likelihoods([one])[0] for one in requests], rtol=1e-4)


@pytest.mark.borders
def test_a_model_folder_of_before_is_asked_when_it_is_loaded(fourier, tokenizer, tmp_path):
    fourier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.pop("reads_padding") is True
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert load_target(str(tmp_path), use_cpu=True).model.config.reads_padding is True


@pytest.mark.borders
@pytest.mark.parametrize("use", [load_target, load_reference, check_reference])
def test_an_encoder_is_no_causal_lm_whose_likelihoods_mean_anything(tokenizer, tmp_path, use):
    sizes = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for name, model in (
        ("encoder", BertLMHeadModel(BertConfig(**sizes, intermediate_size=32))),
        ("decoder", LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=32))),
    ):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    use(str(tmp_path / "decoder"))
    with pytest.raises(UserError, match="'bert' reads ahead as a causal LM"):
        use(str(tmp_path / "encoder"))
