"""Sampling: everything is revealed, the mask never comes out, rows are their own, and the draws have the right laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.generation_random import RowDraws, draw_tokens, row_seeds
from hf_difflm.models.masked_diffusion.noise_schedule import SCHEDULES, NoiseSchedule
from hf_difflm.models.masked_diffusion.samplers_timed import reveal_steps

VOCABULARY, MASK, BOS, PAD = 30, 29, 1, 0
SAMPLERS = ("ddpm", "ddpm_cache")


@pytest.fixture
def model(tiny_denoiser) -> MaskedDiffusionForMaskedLM:
    return tiny_denoiser(vocab_size=VOCABULARY, bos_token_id=BOS, pad_token_id=PAD).eval()


@pytest.fixture
def prompts() -> torch.Tensor:
    return torch.randint(3, MASK, (5, 4), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7, 60])
def test_everything_is_revealed_the_mask_is_never_emitted_and_prompts_are_kept(model, prompts, sampler, steps):
    ids = model.generate(prompts, max_new_tokens=11, max_denoising_steps=steps, sampler=sampler, seed=0)
    assert ids.shape == (5, 15)
    assert not (ids == MASK).any()
    assert torch.equal(ids[:, :4], prompts)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_reveals_everything(tiny_denoiser, schedule):
    model = tiny_denoiser(vocab_size=VOCABULARY, noise_schedule=schedule, bos_token_id=BOS).eval()
    ids = model.generate(max_new_tokens=20, max_denoising_steps=3, seed=0)
    assert ids.shape == (1, 21)
    assert int(ids[0, 0]) == BOS
    assert not (ids == MASK).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_cache_skips_forwards_and_changes_no_token(model, prompts, seed):
    settings = {"max_new_tokens": 12, "max_denoising_steps": 30, "seed": seed, "return_dict_in_generate": True}
    plain = model.generate(prompts, sampler="ddpm", **settings)
    cached = model.generate(prompts, sampler="ddpm_cache", **settings)
    assert torch.equal(plain.sequences, cached.sequences)
    # Without the cache each of the 30 steps costs a forward.
    torch.testing.assert_close(plain.tokens_per_forward, torch.full((5,), 12 / 30))
    assert (cached.tokens_per_forward >= 1).all()


@pytest.mark.parametrize("seed", [0, 7])
def test_ancestral_texts_are_those_of_the_plain_loop_with_the_same_numbers(model, prompts, seed):
    """So a seed keeps its text: two numbers a token from Philox, the first says when, the second inverts the CDF."""
    new, steps = 9, 13
    canvas = torch.nn.functional.pad(prompts, (0, new), value=MASK)
    draws = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, row]))).random((2, new)) for row in range(5)
    ]
    for step in range(1, steps + 1):
        with torch.no_grad():
            cumulative = model(canvas).logits.double().softmax(-1).cumsum(-1).numpy()
        for row, (when, which) in enumerate(draws):
            for place in range(new):
                if 1 - step / steps <= when[place] < 1 - (step - 1) / steps:
                    canvas[row, 4 + place] = int((cumulative[row, 4 + place] <= which[place]).sum())
    for sampler in SAMPLERS:
        ids = model.generate(prompts, max_new_tokens=new, max_denoising_steps=steps, sampler=sampler, seed=seed)
        assert torch.equal(ids, canvas)


def test_a_row_does_not_depend_on_the_rows_beside_it(model, prompts):
    settings = {"max_new_tokens": 12, "max_denoising_steps": 6, "seed": 3}
    together = model.generate(prompts, **settings)
    assert torch.equal(model.generate(prompts[:2], **settings), together[:2])
    others = prompts.clone()
    others[1:] = 7
    assert torch.equal(model.generate(others, **settings)[0], together[0])


def test_the_same_seed_gives_the_same_text_and_leaves_the_global_generators_alone(model, prompts):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = model.generate(prompts, max_new_tokens=12, max_denoising_steps=4, seed=8)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    torch.manual_seed(6)
    assert torch.equal(model.generate(prompts, max_new_tokens=12, max_denoising_steps=4, seed=8), first)
    assert not torch.equal(model.generate(prompts, max_new_tokens=12, max_denoising_steps=4, seed=9), first)


def test_without_a_seed_the_global_generator_decides(model, prompts):
    def sample():
        return model.generate(prompts, max_new_tokens=12, max_denoising_steps=4)

    torch.manual_seed(0)
    first, second = sample(), sample()
    torch.manual_seed(0)
    assert torch.equal(sample(), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("dropped", [0, 1, 3])
def test_a_prompt_padded_on_the_left_gives_the_text_of_the_bare_prompt(model, prompts, dropped):
    mask = torch.ones_like(prompts)
    mask[0, :dropped] = 0
    padded = prompts.clone()
    padded[0, :dropped] = PAD
    settings = {"max_new_tokens": 10, "max_denoising_steps": 5, "seed": 1}
    bare = model.generate(prompts[:1, dropped:], **settings)[0, -10:]
    assert torch.equal(model.generate(padded, attention_mask=mask, **settings)[0, -10:], bare)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_positions_are_revealed_at_the_times_of_the_schedule(schedule):
    """The share still masked after step i is 1 - alpha at its time."""
    schedule, steps, positions = NoiseSchedule(schedule), 8, 40_000
    when, _ = RowDraws([[0, 0]]).once(np.ones((1, positions), dtype=bool))
    step = reveal_steps(schedule, steps, when)
    assert step.min() >= 1
    assert step.max() <= steps
    masked = np.array([(step[0] > i).mean() for i in range(1, steps + 1)])
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[1:]
    expected = schedule.mask_probability(times).numpy()
    stderr = np.sqrt(expected * (1 - expected) / positions)
    assert (np.abs(masked - expected) <= 4 * stderr + 1e-12).all()


def test_the_draws_of_rows_and_seeds_are_unrelated():
    where = np.ones((2, 2000), dtype=bool)
    rows, columns = np.nonzero(where)
    series = []
    for draws in (RowDraws(row_seeds(seed, 2, 1)) for seed in (0, 1)):
        series += [row for numbers in draws.once(where) for row in numbers]
        counted = [draws.uniform(purpose, step, rows, columns) for purpose in (0, 1, 2) for step in (1, 2, 65)]
        series += [row for numbers in counted for row in numbers.reshape(2, -1)]
    correlations = np.corrcoef(series) - np.eye(len(series))
    assert np.abs(correlations).max() < 0.1


def test_tokens_are_drawn_with_their_probabilities():
    logits = torch.tensor([0.0, -1.0, float("-inf"), 2.0, -8.0, float("-inf")])
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    frequency = torch.bincount(draw_tokens(logits.expand(100_000, -1), uniform), minlength=6) / 100_000
    torch.testing.assert_close(frequency.double(), logits.double().softmax(-1), atol=2e-5, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_uniform_numbers_land_on_tokens_that_have_probability(uniform):
    logits = torch.full((1, 1000), float("-inf"))
    logits[0, 300:600] = torch.randn(300, generator=torch.Generator().manual_seed(0))
    token = int(draw_tokens(logits, torch.tensor([uniform], dtype=torch.float64)))
    assert 300 <= token < 600


def test_the_sampler_follows_the_chain_rule_of_the_denoiser(tiny_denoiser):
    """Two positions, one reveal at a time: the samples have the mean of the two any-order factorisations."""
    model = tiny_denoiser(vocab_size=6, seed=4, bos_token_id=0).eval()  # the mask is 5
    with torch.no_grad():
        both = model(torch.tensor([[0, 5, 5]])).logits.softmax(-1)[0, 1:, :5]
        left = model(torch.tensor([[0, v, 5] for v in range(5)])).logits.softmax(-1)[:, 2, :5]
        right = model(torch.tensor([[0, 5, v] for v in range(5)])).logits.softmax(-1)[:, 1, :5]
    expected = 0.5 * both[0][:, None] * left + 0.5 * (both[1][:, None] * right).T
    count = 4000
    ids = model.generate(torch.zeros(count, 1, dtype=torch.long), max_new_tokens=2, max_denoising_steps=500, seed=0)
    frequency = torch.bincount(ids[:, 1] * 5 + ids[:, 2], minlength=25).double() / count
    stderr = (expected.flatten() * (1 - expected.flatten()) / count).sqrt()
    assert ((frequency - expected.flatten()).abs() < 4.5 * stderr + 2e-3).all()


class Streamed:
    """Keeps what a streamer is given."""

    def __init__(self) -> None:
        self.put_values, self.drafts, self.ended = [], [], False

    def put(self, value):
        self.put_values.append(value)

    def put_draft(self, value):
        self.drafts.append(value)

    def end(self):
        self.ended = True


def test_a_streamer_gets_prompt_drafts_and_text_and_no_revealed_token_is_rewritten(model, prompts):
    streamer = Streamed()
    ids = model.generate(prompts, max_new_tokens=9, max_denoising_steps=6, seed=0, streamer=streamer)
    assert torch.equal(streamer.put_values[0], prompts)
    assert torch.equal(streamer.put_values[-1], ids[:, 4:])
    assert streamer.ended
    assert (streamer.drafts[0] == MASK).any()
    for before, after in itertools.pairwise(streamer.drafts):
        revealed = before != MASK
        assert torch.equal(before[revealed], after[revealed])
        assert (after != MASK).sum() > revealed.sum()
    assert not (streamer.drafts[-1] == MASK).any()
