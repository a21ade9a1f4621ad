"""With an exact denoiser unbiased samplers draw from the joint distribution, and the test can tell those that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_models import TableModel

from hf_difflm.models.masked_diffusion.generation_random import draw_tokens
from hf_difflm.models.masked_diffusion.samplers import build_sampler

LENGTH, VOCABULARY, DRAWS, BATCHES = 3, 3, 50_000, 2


def chi_squared_p(joint: np.ndarray, model: TableModel, **settings) -> float:
    """The p-value of 50,000 draws under the joint distribution; cells that expect fewer than 5 are one cell."""
    counts = torch.zeros(joint.size)
    empty = torch.zeros((DRAWS // BATCHES, 0), dtype=torch.long)
    for seed in range(BATCHES):
        ids = model.generate(empty, max_new_tokens=LENGTH, seed=seed, **settings)
        cell = (ids * torch.tensor([VOCABULARY**2, VOCABULARY, 1])).sum(-1)
        counts += torch.bincount(cell, minlength=joint.size)
    observed, expected = counts.double().numpy(), joint.flatten() * DRAWS
    few = expected < 5
    if few.any():
        observed = np.append(observed[~few], observed[few].sum())
        expected = np.append(expected[~few], expected[few].sum())
    statistic = ((observed - expected) ** 2 / expected).sum()
    half_freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


@pytest.fixture
def joint(small_joint) -> np.ndarray:
    return small_joint(LENGTH, VOCABULARY, 0)


@pytest.fixture
def model(joint, exact_denoiser) -> TableModel:
    return TableModel(exact_denoiser(joint).scores)


@pytest.mark.parametrize(
    ("sampler", "parameters", "steps"),
    [
        pytest.param("ddpm", {}, 1000, marks=pytest.mark.slow),  # the texts of ddpm_cache, with all its forwards
        ("ddpm_cache", {}, 1000),
        ("first_hitting", {}, LENGTH),
        ("remdm", {"eta": 0.005}, 400),  # each position is masked again about twice
        ("left_to_right", {}, LENGTH),
        ("random_order", {"order_seed": 3}, LENGTH),
        # One token a step, these follow the chain rule in an order that depends on the text.
        ("entropy", {}, LENGTH),
        ("topk_margin", {}, LENGTH),
        ("uncertainty", {"order": "uncertain_first", "measure": "variance"}, LENGTH),
        ("entropy_bounded", {"bound": 0.0}, LENGTH),
        ("confidence_threshold", {"threshold": 1.0}, LENGTH),
    ],
)
def test_an_unbiased_sampler_reproduces_the_joint_distribution(joint, model, sampler, parameters, steps):
    p = chi_squared_p(joint, model, sampler=sampler, sampler_config=parameters, max_denoising_steps=steps)
    assert p > 1e-4


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        ("ddpm_cache", 2),
        ("first_hitting", 1),
        ("low_confidence", LENGTH),
        ("maskgit_plus", LENGTH),
        ("entropy", 2),
        ("left_to_right", 2),
    ],
)
def test_few_steps_and_biased_samplers_are_told_apart(joint, model, sampler, steps):
    assert chi_squared_p(joint, model, sampler=sampler, max_denoising_steps=steps) < 1e-4


@pytest.mark.parametrize(
    "sampler",
    [
        "left_to_right",
        "random_order",
        "low_confidence",
        "maskgit_plus",
        "topk_margin",
        "entropy",
        "entropy_bounded",
        "confidence_threshold",
        "uncertainty",
    ],
)
def test_a_biased_sampler_says_so(sampler):
    assert "Biased" in type(build_sampler(sampler, {})).__doc__


@pytest.mark.parametrize("seed", range(5))
def test_first_hitting_is_what_ancestral_sampling_tends_to(model, seed):
    """In so many steps no two positions of a text fall into one, so the same numbers give the same texts."""
    settings = {"max_new_tokens": LENGTH, "seed": seed}
    empty = torch.zeros((20, 0), dtype=torch.long)
    ancestral = model.generate(empty, sampler="ddpm_cache", max_denoising_steps=10**6, **settings)
    assert torch.equal(model.generate(empty, sampler="first_hitting", **settings), ancestral)


@pytest.mark.parametrize("eta", [0.0, 0.05, 0.4])
def test_remdm_keeps_the_share_of_masks_of_the_schedule(model, eta):
    """Masking again and revealing balance: after each step 1 - alpha of the positions are masked."""
    count, steps = 20_000, 8
    settings = {"sampler": "remdm", "sampler_config": {"eta": eta}, "max_denoising_steps": steps, "seed": 0}
    empty = torch.zeros((count, 0), dtype=torch.long)
    output = model.generate(empty, max_new_tokens=LENGTH, return_dict_in_generate=True, output_history=True, **settings)
    for step, canvas in enumerate(output.history, start=1):
        expected = 1 - step / steps
        stderr = (expected * (1 - expected) / canvas.numel()) ** 0.5
        assert abs(float((canvas == VOCABULARY).double().mean()) - expected) <= 4.5 * stderr
    assert len(output.history) == steps


def test_float32_gumbel_noise_cannot_reach_what_float64_draws():
    """A long tail of rare tokens: float32 Gumbel noise has a largest value, so it never draws them.

    That is what makes it act as a lower temperature (arXiv 2409.02908); draws in float64 give the tail its share.
    """
    largest_uniform = torch.tensor(1 - 2**-24, dtype=torch.float32)  # the largest that torch.rand returns in float32
    smallest_uniform = torch.tensor(2.0**-24)
    largest, smallest = (-(-uniform.log()).log() for uniform in (largest_uniform, smallest_uniform))
    gap = float(largest - smallest) + 1  # a logit this far below another never wins in float32
    tail = 50_000
    logits = torch.full((1, tail + 1), -gap)
    logits[0, 0] = 0.0
    assert float(logits[0, 1] + largest) < float(logits[0, 0] + smallest)
    share = tail / (tail + np.exp(gap))
    assert share > 1e-6  # thousands of tokens in a corpus of billions
    inside, outside = (torch.tensor([1 - share * part], dtype=torch.float64) for part in (0.999, 1.001))
    assert int(draw_tokens(logits, inside)) > 0
    assert int(draw_tokens(logits, outside)) == 0
    # The same inverse in float32 loses the tail too: its numbers stop short of 1 by more than the tail.
    assert float(largest_uniform) < 1 - 2**-25
