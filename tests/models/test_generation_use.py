"""What users expect of ``generate``: infilling, several texts, seeds, guidance, penalties, long texts, streams, history."""

from __future__ import annotations

import pytest
import torch
from exact_models import NeighbourModel
from transformers import GenerationConfig, LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TextDiffusionStreamer

from hf_difflm.models import MaskedDiffusionForMaskedLM, MaskedDiffusionGenerationConfig
from hf_difflm.models.masked_diffusion.generation_streamers import RecordingStreamer
from hf_difflm.models.masked_diffusion.sampler_names import OWN_SAMPLERS
from hf_difflm.models.masked_diffusion.samplers import build_sampler
from hf_difflm.models.masked_diffusion.samplers_confidence import EntropyBoundedSampler

VOCABULARY, MASK, BOS, EOS, PAD = 9, 9, 1, 2, 0


@pytest.fixture
def model() -> NeighbourModel:
    return NeighbourModel()


@pytest.fixture
def denoiser(tiny_denoiser) -> MaskedDiffusionForMaskedLM:
    """A network; its mask is 29."""
    return tiny_denoiser(vocab_size=30, bos_token_id=BOS, pad_token_id=PAD).eval()


@pytest.mark.parametrize("sampler", OWN_SAMPLERS)
def test_holes_of_any_pattern_are_filled_by_a_network_and_the_text_around_them_stays(denoiser, sampler):
    prompt = torch.tensor([[29, 5, 29, 29, 7, 29], [4, 5, 6, 7, 8, 9], [29] * 6])
    ids = denoiser.generate(prompt, max_new_tokens=0, max_denoising_steps=5, sampler=sampler, seed=0)
    assert ids.shape == prompt.shape
    assert not (ids == 29).any()
    assert torch.equal(ids[prompt != 29], prompt[prompt != 29])


@pytest.mark.parametrize("sampler", OWN_SAMPLERS)
def test_a_network_in_bfloat16_generates(denoiser, sampler):
    prompt = torch.tensor([[5, 29, 7]])
    settings = {"guidance_scale": 1.5, "repetition_penalty": 1.2, "top_p": 0.9}
    ids = denoiser.to(torch.bfloat16).generate(prompt, max_new_tokens=9, sampler=sampler, seed=0, **settings)
    assert not (ids == 29).any()


def test_a_hole_is_filled_with_its_probability_given_both_sides(model):
    prompt = torch.tensor([[3, MASK, 4]]).expand(20_000, -1)
    ids = model.generate(prompt, max_new_tokens=0, seed=0)
    p = model(prompt[:1], positions=torch.tensor([1])).logits.softmax(-1)[0, :VOCABULARY]
    frequency = torch.bincount(ids[:, 1], minlength=VOCABULARY).double() / 20_000
    assert ((frequency - p).abs() < 4.5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_several_texts_of_a_prompt_are_those_of_its_copies(model):
    prompts = torch.tensor([[3, 4], [5, 6]])
    settings = {"max_new_tokens": 8, "seed": 7}
    texts = model.generate(prompts, num_return_sequences=3, **settings)
    assert torch.equal(texts, model.generate(prompts.repeat_interleave(3, 0), **settings))
    assert len({tuple(row) for row in texts.tolist()}) == 6


def test_a_list_of_seeds_gives_each_prompt_its_own(model):
    prompts = torch.tensor([[3, 4], [5, 6], [7, 8]])
    texts = model.generate(prompts, max_new_tokens=8, seed=[11, 5, 11], num_return_sequences=2)
    for row, seed in enumerate([11, 5, 11]):
        alone = model.generate(prompts[row : row + 1], max_new_tokens=8, seed=seed, num_return_sequences=2)
        assert torch.equal(texts[2 * row : 2 * row + 2], alone)
    with pytest.raises(ValueError, match=r"2 seeds for 3 prompts"):
        model.generate(prompts, seed=[1, 2])


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_the_difference_to_the_masked_prompt(model, scale):
    model.config.bos_token_id = BOS
    prompt = torch.tensor([[BOS, 3, 4]])
    canvas = torch.tensor([[BOS, 3, 4, MASK], [BOS, MASK, MASK, MASK]])
    with_prompt, without = model(canvas, positions=torch.tensor([3, 7])).logits[:, :VOCABULARY].log_softmax(-1)
    p = (without + scale * (with_prompt - without)).softmax(-1)
    output = model.generate(
        prompt.expand(20_000, -1),
        max_new_tokens=1,
        guidance_scale=scale,
        seed=0,
        return_dict_in_generate=True,
    )
    frequency = torch.bincount(output.sequences[:, 3], minlength=VOCABULARY).double() / 20_000
    assert ((frequency - p).abs() < 4.5 * (p * (1 - p) / 20_000).sqrt() + 1e-12).all()
    assert float(output.tokens_per_forward[0]) == (1.0 if scale == 1 else 0.5)


@pytest.mark.parametrize("sampler", ["ddpm_cache", "entropy", "low_confidence"])
def test_a_repetition_penalty_is_that_of_transformers_and_does_not_see_padding(model, sampler):
    prompts = torch.tensor([[PAD, PAD, 3, 4], [5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    settings = {"max_new_tokens": 10, "seed": [1, 2], "sampler": sampler, "num_return_sequences": 20}
    texts = model.generate(prompts, attention_mask=mask, repetition_penalty=3.0, **settings)
    processor = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(3.0)])
    assert torch.equal(model.generate(prompts, attention_mask=mask, logits_processor=processor, **settings), texts)
    alone = model.generate(prompts[:1, 2:], repetition_penalty=3.0, **{**settings, "seed": 1})
    assert torch.equal(texts[:20, 2:], alone)
    assert not torch.equal(texts, model.generate(prompts, attention_mask=mask, **settings))


@pytest.mark.parametrize("sampler", ["ddpm_cache", "first_hitting", "entropy", "remdm"])
def test_blocks_are_filled_from_left_to_right(model, sampler):
    output = model.generate(
        torch.tensor([[3, 4]]),
        max_new_tokens=10,
        max_denoising_steps=16,
        block_length=4,
        sampler=sampler,
        seed=0,
        return_dict_in_generate=True,
    )
    steps = output.reveal_steps[0, 2:]
    # 16 steps for 3 blocks: 6, 5, 5.
    for block, (low, high) in zip(steps.split(4), [(1, 6), (7, 11), (12, 16)], strict=True):
        assert low <= int(block.min()) <= int(block.max()) <= high


@pytest.mark.parametrize("sampler", ["ddpm_cache", "entropy_bounded"])
def test_a_text_longer_than_the_context_is_read_through_a_window(sampler):
    """Each block sees what the model alone would see of the last positions."""
    model = NeighbourModel(limit=12)
    settings = {"sampler": sampler, "seed": 3, "max_denoising_steps": 40}
    text = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=37, block_length=4, **settings)
    assert text.shape == (1, 40)
    assert not (text == MASK).any()
    assert model.widest == 12
    # The last token, again: greedy, from the 11 before it.
    greedy = {**settings, "do_sample": False, "sampler": "first_hitting"}
    long = model.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=37, block_length=1, **greedy)
    window = torch.cat([long[:, -12:-1], torch.tensor([[MASK]])], dim=1)
    assert int(model(window, positions=torch.tensor([11])).logits.argmax()) == int(long[0, -1])


def test_a_row_slides_over_the_context_as_it_would_alone():
    model = NeighbourModel(limit=12)
    prompts = torch.tensor([[PAD] * 7 + [3, 4], [5, 6, 7, 8, 3, 4, 5, 6, 7]])
    mask = (prompts != PAD).long()
    settings = {"max_new_tokens": 12, "block_length": 3, "max_denoising_steps": 20}
    together = model.generate(prompts, attention_mask=mask, seed=[5, 6], **settings)
    assert torch.equal(together[0, 7:], model.generate(prompts[:1, 7:], seed=5, **settings)[0])
    assert torch.equal(together[1], model.generate(prompts[1:], seed=6, **settings)[0])


def test_a_network_slides_too_and_refuses_what_it_cannot_see(denoiser):
    prompt = torch.randint(3, 29, (2, 70), generator=torch.Generator().manual_seed(0))
    ids = denoiser.generate(prompt, max_new_tokens=20, block_length=10, max_denoising_steps=8, seed=0)
    assert ids.shape == (2, 90)
    assert not (ids == 29).any()
    prompt[0, 5] = 29
    with pytest.raises(ValueError, match=r"mask at position 5 of prompt 0 .* last 64 positions"):
        denoiser.generate(prompt, max_new_tokens=20, block_length=10, max_denoising_steps=8)
    with pytest.raises(ValueError, match=r"prompt of 70 tokens .* 64 .* block_length"):
        denoiser.generate(prompt, max_new_tokens=20)
    with pytest.raises(ValueError, match=r"block_length 64 leaves no room"):
        denoiser.generate(prompt, max_new_tokens=80, block_length=64)
    with pytest.raises(ValueError, match=r"max_denoising_steps 3 are fewer than the 4 blocks"):
        denoiser.generate(prompt[:, :5], max_new_tokens=20, block_length=5, max_denoising_steps=3)


def test_the_history_and_a_recording_streamer_tell_the_same(model):
    streamer = RecordingStreamer()
    output = model.generate(
        torch.tensor([[3, 4], [5, 6]]),
        max_new_tokens=8,
        seed=0,
        streamer=streamer,
        return_dict_in_generate=True,
        output_history=True,
    )
    assert streamer.prompt.tolist() == [[3, 4], [5, 6]]
    assert len(output.history) == len(streamer.drafts) > 1
    for canvas, draft in zip(output.history, streamer.drafts, strict=True):
        assert torch.equal(canvas[:, 2:], draft)
    for number, canvas in enumerate(output.history):
        order = output.reveal_steps.unique()[1:]
        assert torch.equal(canvas != MASK, output.reveal_steps <= order[number])
    assert torch.equal(output.history[-1], output.sequences)
    assert torch.equal(streamer.text, output.sequences[:, 2:])


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_transformers_own_diffusion_streamer_prints_text_and_infilling(tiny_denoiser, tokenizer, capsys, skip_prompt):
    denoiser = tiny_denoiser(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id).eval()
    ids = torch.tensor([tokenizer("ab[MASK]d", add_special_tokens=False)["input_ids"]])
    assert (ids == tokenizer.mask_token_id).sum() == 1
    streamer = TextDiffusionStreamer(tokenizer, skip_prompt=skip_prompt)
    processor = LogitsProcessorList(
        [lambda ids_NL, scores: scores.index_fill(1, torch.arange(200, 256), float("-inf"))]
    )
    text = denoiser.generate(ids, max_new_tokens=2, streamer=streamer, seed=0, logits_processor=processor)
    printed = capsys.readouterr().out
    assert tokenizer.decode(text[0, 2:]) in printed
    assert ("ab" in printed) != skip_prompt


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_new_tokens": 0}, "nothing to fill"),
        ({"importance": torch.ones(4)}, "importance is for the sampler uncertainty, but the sampler is ddpm_cache"),
        ({"importance": torch.ones(3), "sampler": "uncertainty"}, r"importance is \(3,\), but must be \(130,\)"),
        ({"attention_mask": torch.ones(1, 3)}, r"attention_mask is \(1, 3\) but input_ids is \(1, 2\)"),
        ({"attention_mask": torch.tensor([[1, 0]])}, "prompt 0 is padded on the right.*pad on the left"),
        ({"generation_config": GenerationConfig(max_new_tokens=4)}, "is a GenerationConfig; give a MaskedDiffusion"),
        ({"input_ids": torch.tensor([3, 4])}, r"input_ids must be a tensor of prompts x tokens, got \(2,\)"),
        ({"input_ids": [[3, 4]]}, "input_ids must be a tensor of prompts x tokens, got list"),
        ({"sampler": "low_confidance"}, "did you mean low_confidence"),
        (
            {"sampler": "ddpm", "sampler_config": EntropyBoundedSampler()},
            "sampler is 'ddpm', but sampler_config is that",
        ),
        ({"sampler_config": {"bound": 1}}, "ddpm_cache has no parameter 'bound'"),
        ({"sampler_config": 3}, "sampler_config must be a sampler or a dict"),
    ],
)
def test_bad_input_is_one_sentence(model, arguments, says):
    with pytest.raises(ValueError, match=says) as failure:
        model.generate(**{"input_ids": torch.tensor([[3, 4]]), **arguments})
    assert "\n" not in str(failure.value)


def test_a_mask_in_a_prompt_is_refused_where_infilling_is_off(model):
    with pytest.raises(ValueError, match="mask token 9 at position 1, but infill is off"):
        model.generate(torch.tensor([[3, MASK, 4]]), infill=False)


def test_the_sampler_and_its_parameters_are_found_in_every_layer(denoiser, tmp_path):
    prompt = torch.tensor([[BOS, 4, 5]])
    settings = {"max_new_tokens": 9, "seed": 0}
    direct = denoiser.generate(prompt, sampler="entropy_bounded", sampler_config={"bound": 2.0}, **settings)
    assert torch.equal(denoiser.generate(prompt, sampler_config=EntropyBoundedSampler(bound=2.0), **settings), direct)
    denoiser.generation_config = MaskedDiffusionGenerationConfig(sampler_config=EntropyBoundedSampler(bound=2.0))
    denoiser.save_pretrained(tmp_path)
    loaded = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.generate(prompt, **settings), direct)
    # Its name alone keeps the saved parameters; another sampler leaves them.
    prepared = loaded._prepare_generation_config(None, sampler="entropy_bounded")
    assert prepared.sampler_config == EntropyBoundedSampler(bound=2.0)
    assert loaded._prepare_generation_config(None, sampler="ddpm").sampler_config == build_sampler("ddpm", {})
    assert loaded._prepare_generation_config(None, sampler_config={"bound": 3.0}).sampler_config.bound == 3.0
    with pytest.raises(ValueError, match="did you mean bound"):
        MaskedDiffusionGenerationConfig(sampler="entropy_bounded", sampler_config={"bond": 1})
