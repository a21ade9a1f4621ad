"""What a generation has read stands for the next one: the same tokens, fewer of them read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hf_difflm.models.masked_diffusion.generation_masked_diffusion import KeptPrefix

NEW = {"max_new_tokens": 10, "max_denoising_steps": 10}


class Reading:
    """Counts the tokens that a model reads."""

    def __init__(self, model):
        self.tokens = 0
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, module, arguments, output):
        self.tokens += arguments[0].numel()

    def of(self, call):
        before = self.tokens
        return call(), self.tokens - before


def turns(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 250, (1, 5 + 2 * turn), generator=generator) for turn in range(count)]


@pytest.mark.parametrize("sampler", ["ddpm_cache", "low_confidence", "remdm"])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("start", ["text", "answer"])
def test_turns_with_what_was_kept_have_the_same_tokens_and_read_fewer(tiny_denoiser, start, shift, sampler):
    model = tiny_denoiser(diffusion_block_size=4, diffusion_block_start=start, shift_logits=shift).eval()
    reading, kept, history = Reading(model), KeptPrefix(), torch.empty(1, 0, dtype=torch.long)
    whole = some = 0
    for seed, said in enumerate(turns(3)):
        history = torch.cat([history, said], dim=1)
        call = {"input_ids": history, "seed": seed, "sampler": sampler, **NEW}
        alone, read = reading.of(lambda call=call: model.generate(**call))
        along, less = reading.of(lambda call=call: model.generate(kept=kept, **call))
        assert torch.equal(alone, along)
        # What the blocks before the answer and what was read have in common is not read, and nothing else is left out.
        assert less == read - kept.reused
        whole, some, history = whole + read, some + less, along
    # Of 32 tokens that there were: all but the last block, or what of the prompt before are whole blocks.
    assert kept.reused == {"text": 28, "answer": 20}[start] - int(shift)
    assert some < whole


@pytest.mark.parametrize("start", ["text", "answer"])
def test_a_turn_that_is_taken_back_is_cut_off(tiny_denoiser, start):
    model = tiny_denoiser(diffusion_block_size=4, diffusion_block_start=start).eval()
    first, other, again = torch.arange(13)[None], torch.arange(40, 53)[None], torch.arange(60, 69)[None]
    kept = KeptPrefix()
    model.generate(torch.cat([first, other], 1), kept=kept, seed=0, **NEW)
    second = torch.cat([first, again], 1)
    text = model.generate(second, kept=kept, seed=1, **NEW)
    assert kept.reused == 12, "whole blocks of the thirteen that are the same"
    assert torch.equal(text, model.generate(second, seed=1, **NEW))
    model.generate(again, kept=kept, seed=1, **NEW)
    assert kept.reused == 0


def test_an_answer_to_the_same_prompt_reads_nothing_of_it_again(tiny_denoiser):
    model = tiny_denoiser(diffusion_block_size=4, diffusion_block_start="answer").eval()
    prompt, kept = torch.arange(13)[None], KeptPrefix()
    texts = [model.generate(prompt, kept=kept, seed=seed, **NEW) for seed in (0, 1)]
    assert kept.reused == 13
    assert torch.equal(texts[1], model.generate(prompt, seed=1, **NEW))


def test_a_generation_that_breaks_off_leaves_nothing(tiny_denoiser):
    model = tiny_denoiser(diffusion_block_size=4).eval()
    prompt, kept = torch.arange(16)[None], KeptPrefix()
    model.generate(prompt, kept=kept, **NEW)

    def stop(*unused):
        raise KeyboardInterrupt

    hook = model.lm_head.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        model.generate(prompt, kept=kept, **NEW)
    hook.remove()
    text = model.generate(prompt, kept=kept, seed=2, **NEW)
    assert kept.reused == 0
    assert torch.equal(text, model.generate(prompt, seed=2, **NEW))


def test_padding_on_the_left_changes_nothing(tiny_denoiser):
    model = tiny_denoiser(diffusion_block_size=4).eval()
    prompt, kept = torch.arange(14)[None], KeptPrefix()
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt], 1)
    attention = torch.cat([torch.zeros(1, 3, dtype=torch.long), torch.ones_like(prompt)], 1)
    model.generate(prompt, kept=kept, seed=0, **NEW)
    text = model.generate(padded, attention_mask=attention, kept=kept, seed=1, **NEW)
    assert kept.reused == 12
    assert torch.equal(text[:, 3:], model.generate(prompt, seed=1, **NEW))


def test_blocks_are_shared_whole_or_not_at_all():
    cache = DynamicCache()
    cache.update(torch.zeros(1, 1, 8, 2), torch.zeros(1, 1, 8, 2), 0)
    kept = KeptPrefix()
    kept.keep(cache, np.arange(8), np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    found, length = kept.take(np.array([0, 1, 2, 3, 4, 5, 9, 9]), np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    assert (found.get_seq_length(), length, kept.reused) == (4, 4, 4)
    assert kept.take(np.arange(8), np.zeros(8)) == (None, 0), "it was handed over"


@pytest.mark.parametrize(
    ("config", "arguments", "sentence"),
    [
        ({}, {}, "kept is for models with diffusion blocks"),
        ({"diffusion_block_size": 4}, {"use_cache": False}, "kept needs the cache"),
        ({"diffusion_block_size": 4}, {"static_shapes": True}, "kept needs the cache"),
        ({"diffusion_block_size": 4}, {"guidance_scale": 2.0}, "does not go with guidance_scale 2.0"),
        ({"diffusion_block_size": 4}, {"num_return_sequences": 2}, "kept is of one text, but there are 2"),
    ],
)
def test_what_cannot_be_kept_is_a_sentence(tiny_denoiser, config, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_denoiser(**config).generate(torch.arange(6)[None], kept=KeptPrefix(), **NEW, **arguments)
