"""Noise is a function of (seed, purpose, step, place) and of nothing else, and it is spread as promised."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import CountLaw, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.noise import jittered_uniforms, row_uniforms, stratified_uniforms, van_der_corput_ranks

FORMS = [
    MaskedDiffusionObjective(9),
    MaskedDiffusionObjective(9, noise_sampling="iid"),
    MaskedDiffusionObjective(9, "time", schedule=NoiseSchedule("cosine")),
    MaskedDiffusionObjective(9, "time", "iid"),
    MaskedDiffusionObjective(9, noise_sampling="pairs"),
    MaskedDiffusionObjective(9, count_law=CountLaw("importance")),
    MaskedDiffusionObjective(9, count_law=CountLaw("bell"), loss_weight="flat"),
]
every_form = pytest.mark.parametrize(
    "objective", FORMS, ids=lambda o: f"{o.loss_form}-{o.noise_sampling}-{o.count_law.name}"
)


def key_of(size: int, seed: int = 3, step: int = 5, purpose: str = "train") -> NoiseKey:
    return NoiseKey(seed, step, np.arange(size), size, purpose)


def row_firsts(key: NoiseKey) -> np.ndarray:
    return np.array([row[0] for row in row_uniforms(key, np.zeros(len(key.places_B), dtype=int))])


def masks(objective: MaskedDiffusionObjective, key: NoiseKey, scored_BL: np.ndarray) -> np.ndarray:
    return objective.corrupt(scored_BL, key).masked_BL


@every_form
@given(cuts=st.sets(st.integers(1, 15)), step=st.integers(0, 2**40), seed=st.integers(0, 2**32))
def test_any_cut_of_the_optimiser_batch_gets_the_same_noise(objective, cuts, step, seed):
    scored = np.ones((16, 7), dtype=bool)
    whole = objective.corrupt(scored, key_of(16, seed, step))
    pieces = np.split(np.arange(16), sorted(cuts))
    parts = [objective.corrupt(scored[p], NoiseKey(seed, step, p, 16)) for p in pieces]
    for field in dataclasses.fields(whole):
        if field.name == "draw_weights_B" and objective.count_law.name == "uniform":
            assert {getattr(one, field.name) for one in (whole, *parts)} == {None}
            continue
        together = np.concatenate([getattr(part, field.name) for part in parts])
        np.testing.assert_array_equal(together, getattr(whole, field.name), err_msg=field.name)


@every_form
def test_ranks_may_take_the_places_in_any_order(objective):
    scored = np.ones((8, 5), dtype=bool)
    order = np.array([6, 1, 7, 0, 2, 5, 4, 3])
    shuffled = masks(objective, dataclasses.replace(key_of(8), places_B=order), scored)
    reads_BRL = (masks(objective, key_of(8), scored)).reshape(8, objective.reads, 5)
    np.testing.assert_array_equal(shuffled, reads_BRL[order].reshape(-1, 5))


@every_form
def test_padding_and_context_on_either_side_change_nothing(objective):
    scored = np.ones((6, 5), dtype=bool)
    plain = masks(objective, key_of(6), scored)
    for before, after in [(3, 0), (0, 4), (2, 2)]:
        padded = masks(objective, key_of(6), np.pad(scored, ((0, 0), (before, after))))
        np.testing.assert_array_equal(padded[:, before : before + 5], plain)
        assert padded.sum() == plain.sum()


@every_form
def test_the_other_rows_change_nothing(objective):
    lengths = np.array([5, 2, 7, 4])
    scored = np.arange(7) < lengths[:, None]
    others = np.arange(7) < np.array([1, 2, 7, 3])[:, None]
    ours, theirs = (masks(objective, key_of(4), of).reshape(4, objective.reads, 7) for of in (scored, others))
    np.testing.assert_array_equal(ours[[1, 2]], theirs[[1, 2]])


@every_form
def test_global_generators_are_neither_read_nor_moved(objective):
    scored = np.ones((4, 6), dtype=bool)
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    first = masks(objective, key_of(4), scored)
    after = torch.rand(1), np.random.random(), random.random()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert after == (torch.rand(1), np.random.random(), random.random())
    np.testing.assert_array_equal(masks(objective, key_of(4), scored), first)


@pytest.mark.parametrize(
    "other", [key_of(64, seed=4), key_of(64, step=6), key_of(64, purpose="eval")], ids=["seed", "step", "purpose"]
)
@every_form
def test_another_seed_step_or_purpose_gets_other_noise(objective, other):
    scored = np.ones((64, 12), dtype=bool)
    ours, theirs = masks(objective, key_of(64), scored), masks(objective, other, scored)
    assert 0.3 < (ours != theirs).mean() < 0.65  # unrelated, not just different


def test_another_place_gets_other_noise():
    rows = row_uniforms(key_of(200), np.full(200, 20))
    assert len({row.tobytes() for row in rows}) == 200
    assert abs(np.corrcoef([row[:-1] for row in rows[:-1]], [row[:-1] for row in rows[1:]])[:199, 199:].mean()) < 0.02


def test_the_numbers_of_a_row_are_uniform():
    numbers = np.concatenate(row_uniforms(key_of(2000), np.full(2000, 49)))
    counts = np.histogram(numbers, 50, (0, 1))[0]
    chi_square = ((counts - 2000) ** 2 / 2000).sum()
    assert chi_square < 85  # 99.9 % quantile with 49 degrees of freedom
    assert numbers.max() < 1


@pytest.mark.parametrize("sampling", ["stratified", "iid"])
def test_counts_are_uniform_from_one_to_all(sampling):
    objective = MaskedDiffusionObjective(9, noise_sampling=sampling)
    scored = np.ones((32, 8), dtype=bool)
    counts = np.concatenate([masks(objective, key_of(32, step=s), scored).sum(-1) for s in range(200)])
    frequency = np.bincount(counts, minlength=9)
    assert frequency[0] == 0
    chi_square = ((frequency[1:] - 800) ** 2 / 800).sum()
    assert chi_square < 24.3  # 99.9 % quantile with 7 degrees of freedom; a stratified draw lies far below it


def test_subsets_of_a_size_are_uniform():
    objective = MaskedDiffusionObjective(9)
    scored = np.ones((64, 4), dtype=bool)
    drawn = np.concatenate([masks(objective, key_of(64, step=s), scored) for s in range(150)])
    codes = drawn[drawn.sum(-1) == 2] @ [1, 2, 4, 8]
    frequency = np.unique(codes, return_counts=True)[1]
    assert len(frequency) == 6
    expected = len(codes) / 6
    assert ((frequency - expected) ** 2 / expected).sum() < 20.5  # 99.9 % quantile with 5 degrees of freedom


@pytest.mark.parametrize("schedule", ["loglinear", "cosine", "polynomial", "geometric"])
def test_the_time_form_masks_with_the_probability_of_the_schedule(schedule):
    """Averaged over t, the share of masked tokens is the integral of 1 - alpha."""
    objective = MaskedDiffusionObjective(9, "time", schedule=NoiseSchedule(schedule))
    share = np.mean([masks(objective, key_of(64, step=s), np.ones((64, 64), dtype=bool)).mean() for s in range(20)])
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    assert share == pytest.approx(float(objective.schedule.mask_probability(t).mean()), abs=0.005)


@given(size=st.integers(1, 700), step=st.integers(0, 10**6))
def test_stratified_numbers_fall_one_into_each_stratum(size, step):
    u = np.sort(stratified_uniforms(key_of(size, step=step)))
    assert u[0] >= 0
    assert u[-1] < 1
    np.testing.assert_allclose(np.diff(u), 1 / size, atol=1e-12)


@given(size=st.integers(1, 700), step=st.integers(0, 10**6), jitter=st.floats(0, 1))
def test_jittered_numbers_fall_one_into_each_stratum_wherever_in_it(size, step, jitter):
    key = key_of(size, step=step)
    own = 0.999 * ((np.arange(size) * 0.6180339887 + jitter) % 1.0)  # below 1 after the division, too
    u = jittered_uniforms(key, own)
    assert (u >= 0).all()
    assert (u < 1).all()
    strata = np.floor(u * size + 1e-9).astype(int)
    np.testing.assert_array_equal(np.sort(strata), np.arange(size))
    np.testing.assert_allclose(u * size - strata, own, atol=1e-8)


def test_the_jittered_number_of_each_place_is_uniform():
    """Over 3,000 steps, place by place: 16 bins, the 99.99 % quantile of chi-square with 15 degrees of freedom."""
    u = np.stack([jittered_uniforms(key, row_firsts(key)) for key in (key_of(6, step=step) for step in range(3000))])
    for place in u.T:
        counts = np.histogram(place, 16, (0, 1))[0]
        assert ((counts - 187.5) ** 2 / 187.5).sum() < 44.3


@given(log_size=st.integers(3, 8), log_part=st.integers(1, 6), step=st.integers(0, 1000))
def test_every_aligned_micro_batch_is_stratified_too(log_size, log_part, step):
    size, part = 2**log_size, 2 ** min(log_part, log_size)
    u = stratified_uniforms(key_of(size, step=step)).reshape(-1, part)
    for row in np.sort(u, axis=-1):
        np.testing.assert_allclose(np.diff(row), 1 / part, atol=1e-12)


@given(size=st.integers(2, 300), start=st.integers(0, 299), part=st.integers(1, 300))
def test_every_run_of_neighbours_is_nearly_stratified(size, start, part):
    """Star discrepancy of any run of n places is within (log2(n) + 3) / n: no micro-batch is all easy or all hard."""
    start = start % size
    u = np.sort(stratified_uniforms(key_of(size))[start : start + part])
    n = len(u)
    discrepancy = max((np.arange(1, n + 1) / n - u).max(), (u - np.arange(n) / n).max())
    assert discrepancy <= (np.log2(n) + 3) / n


@given(st.integers(1, 2000))
def test_van_der_corput_ranks_are_a_permutation(size):
    assert np.array_equal(np.sort(van_der_corput_ranks(size)), np.arange(size))


def test_van_der_corput_ranks_are_the_bit_reversal():
    assert van_der_corput_ranks(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@every_form
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20), step=st.integers(0, 10**6))
def test_only_scored_tokens_are_masked_and_levels_fit_the_masks(objective, lengths, step):
    scored = np.arange(9) < np.array(lengths)[:, None]
    corruption = objective.corrupt(scored, key_of(len(lengths), step=step))
    counts, masked = scored.sum(-1).repeat(objective.reads), corruption.masked_BL.sum(-1)
    scored = scored.repeat(objective.reads, axis=0)
    assert not (corruption.masked_BL & ~scored).any()
    np.testing.assert_allclose(corruption.masking_rate_B * counts, masked, atol=1e-9)
    if objective.loss_form == "any_order" and objective.reads == 1:
        assert (masked[counts > 0] >= 1).all()
        drawn = 1 if corruption.draw_weights_B is None else corruption.draw_weights_B
        if objective.loss_weight == "nelbo":
            np.testing.assert_allclose(corruption.weights_B * masked, drawn * counts, atol=1e-9)
        np.testing.assert_allclose(np.exp(-corruption.noise_level_B), 1 - masked / (counts + 1), atol=1e-9)
