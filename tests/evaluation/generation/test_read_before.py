"""A causal LM's cache from turn to turn: the same tokens, and only new ones are read."""

from __future__ import annotations

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from hf_difflm.evaluation.generation.holes import PromptIds
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.read_before import keeps_anything
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.models.masked_diffusion.bdh_backbone import BdhForCausalLM
from hf_difflm.models.masked_diffusion.bdh_configuration import BdhConfig
from hf_difflm.models.masked_diffusion.generation_prefix import KeptPrefix

TINY = {"vocab_size": 260, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def answer(tokenizer):
    """``answer(model, ids, kept, seed)``: new tokens, and how many were read for them."""

    def call(model, ids, kept=None, seed=0, **options):
        read = []
        hook = model.get_input_embeddings().register_forward_hook(lambda _, given, out: read.append(given[0].numel()))
        chosen = GenerationOptions(max_new_tokens=8, seed=seed, **options)
        (text,) = generate_samples(model, tokenizer, ["x"], chosen, encoded=[PromptIds(ids)], kept=kept)
        hook.remove()
        return text.ids, sum(read)

    return call


@pytest.mark.parametrize("kind", ["llama", "bdh"])
def test_turns_of_a_causal_lm_read_new_tokens_alone(tiny_causal, answer, kind):
    torch.manual_seed(0)
    model = tiny_causal() if kind == "llama" else BdhForCausalLM(BdhConfig(is_causal=True, **TINY))
    kept, history = KeptPrefix(), list(b"hello")
    for seed, said in enumerate((b" you", b" and you", b" or not")):
        history += said
        before = kept.reused
        alone, read = answer(model, history, seed=seed)
        along, less = answer(model, history, kept, seed=seed)
        assert along == alone
        assert less == read - kept.reused
        assert kept.reused >= before
        history += along
    assert kept.reused == len(history) - len(along) - len(said) - 1, "all but the last token, which was never read"


def test_a_turn_that_is_taken_back_is_cut_off(tiny_causal, answer):
    model, kept = tiny_causal(), KeptPrefix()
    answer(model, list(b"hello you there"), kept)
    new, _ = answer(model, list(b"hello me"), kept, seed=3)
    assert kept.reused == len(b"hello ")
    assert new == answer(model, list(b"hello me"), seed=3)[0]
    again, read = answer(model, list(b"hello me"), kept, seed=4)
    assert kept.reused == len(b"hello m"), "the first new token is predicted from the last of the prompt"
    assert again == answer(model, list(b"hello me"), seed=4)[0]
    assert read == len(again)


def test_what_has_no_way_back_is_read_anew_with_the_same_tokens(tiny_denoiser, answer):
    torch.manual_seed(0)
    sliding = MistralForCausalLM(MistralConfig(sliding_window=4, num_key_value_heads=2, **TINY))
    for model in (sliding, tiny_denoiser()):
        kept = KeptPrefix()
        assert not keeps_anything(model, {})
        for _ in range(2):
            assert answer(model, list(b"hello you"), kept)[0] == answer(model, list(b"hello you"))[0]
        assert kept.reused == 0


def test_guidance_reads_all_anew(tiny_denoiser, answer):
    model, kept = tiny_denoiser(diffusion_block_size=4), KeptPrefix()
    assert keeps_anything(model, {})
    assert not keeps_anything(model, {"guidance_scale": 2.0})
    guided = answer(model, list(b"hello you"), kept, guidance_scale=2.0)
    assert guided == answer(model, list(b"hello you"), guidance_scale=2.0)
    assert kept.reused == 0
