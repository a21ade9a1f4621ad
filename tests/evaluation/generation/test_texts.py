"""Text in the middle of a training: any tokenizer, and no trace left."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from generated import generate_texts
from transformers import GPT2Config, GPT2LMHeadModel

from hf_difflm.data.text_ids import TextIds
from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.evaluation.undisturbed import undisturbed

OPTIONS = GenerationOptions(max_new_tokens=6, seed=3)


class Bare:
    """The byte tokenizer, as it would be without some of its special tokens."""

    def __init__(self, tokenizer, **roles):
        self._tokenizer = tokenizer
        self.bos_token_id = roles.get("bos")
        self.eos_token_id = roles.get("eos")
        self.pad_token_id = roles.get("pad")
        self.all_special_ids = [value for value in roles.values() if value is not None]

    def __call__(self, *args, **options):
        return self._tokenizer(*args, **options)

    def decode(self, *args, **options):
        return self._tokenizer.decode(*args, **options)


@pytest.fixture(params=["tiny_causal", "tiny_denoiser"])
def model(request):
    return request.getfixturevalue(request.param)()


def test_a_tokenizer_like_gpt2_with_one_special_token_for_everything_works(tokenizer):
    torch.manual_seed(0)
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 256, "eos_token_id": 256}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=260, **sizes))
    gpt2 = Bare(tokenizer, bos=256, eos=256)
    both = generate_samples(model, gpt2, ["", "a longer prompt"], GenerationOptions(max_new_tokens=6, temperature=0.0))
    assert [sample.prompt for sample in both] == ["", "a longer prompt"]
    (alone,) = generate_samples(model, gpt2, [""], GenerationOptions(max_new_tokens=6, temperature=0.0))
    assert both[0] == alone  # what fills up the shorter prompt is not seen
    assert 256 not in both[0].ids


def test_a_tokenizer_without_bos_begins_an_empty_prompt_with_eos_and_without_both_refuses_it(tiny_causal, tokenizer):
    model = tiny_causal()
    with_eos = Bare(tokenizer, eos=257)
    assert len(generate_texts(model, with_eos, ["", "ab"], OPTIONS)) == 2
    with pytest.raises(UserError, match="neither a BOS nor an EOS token"):
        generate_texts(model, Bare(tokenizer), ["", "ab"], OPTIONS)
    assert len(generate_texts(model, Bare(tokenizer), ["ab"], OPTIONS)) == 1


def test_ids_are_those_of_the_text_without_special_tokens(model, tokenizer):
    for sample in generate_samples(model, tokenizer, ["", "ab"], OPTIONS):
        assert tokenizer.decode(sample.ids) == sample.text
        assert all(token < 256 for token in sample.ids)


def test_nothing_of_the_model_or_of_any_generator_is_changed(model, tokenizer):
    model.train()
    frozen = next(module for name, module in model.named_modules() if name.endswith("mlp"))
    frozen.eval()
    model.config.use_cache = False
    modes = [module.training for module in model.modules()]
    configuration = dict(vars(model.generation_config))
    kept = model.generation_config
    tensors = {name: value.clone() for name, value in [*model.named_parameters(), *model.named_buffers()]}
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = generate_texts(model, tokenizer, ["a"], OPTIONS)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert [module.training for module in model.modules()] == modes
    assert model.config.use_cache is False
    assert model.generation_config is kept
    assert vars(kept) == configuration
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(value, tensors[name])
        assert value.grad is None
    assert generate_texts(model, tokenizer, ["a"], OPTIONS) == first


def test_everything_is_put_back_after_an_error_too(tiny_causal):
    model = tiny_causal().train()
    own = model.generation_config
    state = torch.get_rng_state()

    def fail():
        with undisturbed(model):
            torch.rand(3)
            random.random()
            model.config.use_cache = False
            model.generation_config = None
            assert not model.training
            assert not torch.is_grad_enabled()
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.config.use_cache
    assert model.generation_config is own
    assert torch.is_grad_enabled()


def test_it_works_inside_autocast_and_with_gradient_checkpointing(model, tokenizer):
    plain = generate_texts(model, tokenizer, ["ab"], GenerationOptions(max_new_tokens=6, temperature=0.0))
    model.gradient_checkpointing_enable()
    model.train()
    again = generate_texts(model, tokenizer, ["ab"], GenerationOptions(max_new_tokens=6, temperature=0.0))
    assert again == plain
    assert model.is_gradient_checkpointing
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(generate_texts(model, tokenizer, ["ab"], OPTIONS)) == 1


def test_a_prompt_with_what_has_no_utf8_is_read_as_its_replacement(model, tokenizer):
    assert TextIds.of(tokenizer).letters("a\ud800b😀") == list("a\ufffdb😀".encode())
    hostile = ["\udcff\udc80", "\x1b[31m$_<script>", "x" * 40]
    assert len(generate_texts(model, tokenizer, hostile, OPTIONS)) == 3
