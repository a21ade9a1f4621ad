"""Schedules by odds scaling: their ends, their rates, the geometric mean of r, and the masks that are drawn from them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_difflm.objectives import NoiseKey
from hf_difflm.objectives.adaptive.losses import (
    contextual_correction,
    token_value_correction,
    token_value_log_mu,
)
from hf_difflm.objectives.adaptive.masking import corrupt, draw, masks_given_one
from hf_difflm.objectives.adaptive.odds_scaling import (
    LOG_R_MAX,
    centred_r,
    exponent_at,
    log_odds,
    mask_probability,
    position_log_odds,
    rate,
)
from hf_difflm.objectives.noise import stratified_uniforms

R = np.array([0.25, 0.5, 1.0, 1.7, 4.0])


def test_nothing_is_masked_at_the_start_and_all_at_the_end():
    assert (mask_probability(np.zeros(5), R) == 0).all()
    assert (mask_probability(np.ones(5), R) == 1).all()


@given(t=st.floats(1e-3, 1 - 1e-3), r=st.floats(0.25, 4.0))
def test_the_odds_of_being_masked_are_scaled_by_r(t, r):
    p = float(mask_probability(np.float64(t), np.float64(r)))
    assert p / (1 - p) == pytest.approx(r * t / (1 - t), rel=1e-9)
    e = 1e-5 * t
    slope = float(mask_probability(np.float64(t + e), r) - mask_probability(np.float64(t - e), r)) / (2 * e)
    assert float(rate(np.float64(t), np.float64(r))) == pytest.approx(slope / p, rel=1e-5)


def test_each_token_counts_once_whatever_its_r():
    node, weight = np.polynomial.legendre.leggauss(60)
    t = (node[:, None] + 1) / 2
    np.testing.assert_allclose((weight[:, None] / 2 * rate(t, R) * mask_probability(t, R)).sum(0), 1.0, rtol=1e-10)


@pytest.mark.parametrize(
    ("masking", "at"),
    [
        ("proportional", [0.5, 0.5, 0.5]),
        ("inverse", [-0.5, -0.5, -0.5]),
        ("balanced", [-0.5, 0.0, 0.5]),
        ("time_only", [0, 0, 0]),
        ("none", [0, 0, 0]),
    ],
)
def test_the_exponent_of_each_masking_over_training(masking, at):
    assert [exponent_at(masking, 2.0, progress) for progress in (0.0, 0.5, 1.0)] == at


values = hnp.arrays(np.float64, (3, 7), elements=st.floats(-8, 8))
weighed = hnp.arrays(bool, (3, 7))


@given(values, weighed)
def test_the_geometric_mean_of_r_is_one_in_every_row_and_the_clamp_holds(log_odds_BL, scored_BL):
    r_BL = centred_r(log_odds_BL, scored_BL.astype(float))
    assert (np.abs(np.log(r_BL)) <= LOG_R_MAX + 1e-12).all()
    for r_L, scored_L in zip(r_BL, scored_BL, strict=True):
        if scored_L.any():
            assert np.log(r_L[scored_L]).mean() == pytest.approx(0, abs=1e-9)
        else:
            assert (r_L == 1).all()


def test_r_is_importance_over_its_geometric_mean_where_the_clamp_does_not_bite():
    importance = np.array([[0.2, 0.3, 0.4, 0.9]])
    r = centred_r(log_odds(importance, 0.5), np.array([[1.0, 1, 1, 0]]))
    mean = (0.2 * 0.3 * 0.4) ** (1 / 3)
    np.testing.assert_allclose(r, (importance / mean) ** 0.5)


@given(values)
def test_more_important_tokens_never_have_a_smaller_r(log_odds_BL):
    r_BL = centred_r(log_odds_BL, np.ones((3, 7)))
    order_BL = np.argsort(log_odds_BL, axis=-1, kind="stable")
    assert (np.diff(np.take_along_axis(r_BL, order_BL, -1), axis=-1) >= 0).all()


def test_position_bias_runs_from_minus_to_plus_over_the_scored_tokens():
    scored = np.array([[False, True, True, True, False], [True, False, False, False, False]])
    np.testing.assert_allclose(position_log_odds(scored, 0.8), [[0, -0.8, 0, 0.8, 0], [0, 0, 0, 0, 0]])


def test_masks_given_one_have_the_probabilities_of_independent_masks_that_hide_something():
    p_L = np.array([0.1, 0.6, 0.0, 0.3])
    draws = 200_000
    scores = np.random.default_rng(0).random((draws, 4))
    masked, some = masks_given_one(np.tile(p_L, (draws, 1)), scores)
    none = np.prod(1 - p_L)
    np.testing.assert_allclose(some, 1 - none)
    assert masked.any(-1).all()
    seen = np.bincount(masked @ (1 << np.arange(4)), minlength=16) / draws
    for mask in itertools.product([0, 1], repeat=4):
        expected = np.prod(np.where(mask, p_L, 1 - p_L)) / (1 - none) if any(mask) else 0
        assert seen[np.dot(mask, 1 << np.arange(4))] == pytest.approx(expected, abs=5e-3)


def test_masks_hide_something_at_the_earliest_time_and_everything_at_the_last():
    scored = np.ones((4, 9), dtype=bool)
    scored[3] = False
    scored[:, 0] = False
    r = np.random.default_rng(1).uniform(0.25, 4, (4, 9))
    scores = np.where(scored, np.random.default_rng(2).random((4, 9)), np.inf)
    early = corrupt(scored, r, np.full(4, 2.0**-53), scores)
    assert early.masked_BL.sum(-1).tolist() == [1, 1, 1, 0]
    assert np.isfinite(early.weights_BL).all()
    # The sum of all r, not 1 / t: that is what keeps the variance finite.
    np.testing.assert_allclose(early.weights_BL[0], (r * scored)[0].sum(), rtol=1e-6)
    last = corrupt(scored, r, np.ones(4), scores)
    np.testing.assert_array_equal(last.masked_BL, scored)
    np.testing.assert_allclose(last.weights_BL[:3], 1 / r[:3])
    assert last.masking_rate_B.tolist() == [1, 1, 1, 0]


@given(st.integers(0, 2**32), st.floats(0.0, 8.0))
def test_the_mean_masking_rate_stays_near_the_time(seed, spread):
    generator = np.random.default_rng(seed)
    rows, length = 64, 128
    scored = np.ones((rows, length), dtype=bool)
    # Few extreme tokens among many alike are the hardest case: they must not pull all the others along.
    skewed = np.where(generator.random((rows, length)) < 0.1, -spread, 0.0) + generator.normal(0, 0.1, (rows, length))
    r = centred_r(skewed, scored.astype(float))
    t, scores = draw(scored, NoiseKey(seed, 0, np.arange(rows), rows))
    corruption = corrupt(scored, r, t, scores)
    assert abs(corruption.masking_rate_B.mean() - t.mean()) < 0.03
    assert np.abs(corruption.masking_rate_B - t).mean() < 0.08


def test_times_are_those_of_p0_and_padding_changes_no_mask():
    scored = np.ones((6, 5), dtype=bool)
    key = NoiseKey(3, 4, np.arange(6), 6)
    t, scores = draw(scored, key)
    np.testing.assert_array_equal(t, 1 - stratified_uniforms(key))
    r = np.random.default_rng(0).uniform(0.25, 4, (6, 5))
    plain = corrupt(scored, r, t, scores)
    for before, after in [(3, 0), (0, 4), (2, 2)]:
        pad = ((0, 0), (before, after))
        padded_scored = np.pad(scored, pad)
        padded = corrupt(padded_scored, np.pad(r, pad, constant_values=1.0), *draw(padded_scored, key))
        inside = slice(before, before + 5)
        np.testing.assert_array_equal(padded.masked_BL[:, inside], plain.masked_BL)
        np.testing.assert_array_equal(padded.weights_BL[:, inside], plain.weights_BL)
        assert padded.masked_BL.sum() == plain.masked_BL.sum()


@pytest.mark.parametrize("t", [0.0, 2.0**-149, 1e-8, 0.5, 1 - 2.0**-24, 1.0])
def test_costs_are_finite_and_have_finite_gradients_at_every_time(t):
    t_N = torch.full((4,), t)
    logits = torch.randn(4, 6)
    logits[:, 5] = -torch.inf  # the mask token
    logits.requires_grad_()
    r_V = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0, 1.0])
    targets = torch.tensor([0, 1, 2, 4])
    for tilt in (False, True):
        log_mu = token_value_log_mu(logits, r_V, t_N, tilt)
        cost = token_value_correction(log_mu, targets, r_V, t_N) - log_mu.gather(-1, targets[:, None]).squeeze(-1)
        (gradient,) = torch.autograd.grad(cost.sum(), logits)
        assert cost.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient[:, :5].any()
    rate_r = torch.tensor([0.25, 1.0, 2.0, 4.0], requires_grad=True)
    correction = contextual_correction(torch.tensor([4.0, 1.0, 0.5, 0.25]), rate_r, t_N)
    assert (correction >= 0).all()
    assert torch.autograd.grad(correction.sum(), rate_r)[0].isfinite().all()


def test_p3_pays_nothing_for_the_right_rate_and_p2_nothing_for_one_token_value():
    t, r = torch.tensor([0.3, 0.9]), torch.tensor([0.5, 3.0])
    assert contextual_correction(r, r, t).abs().max() < 1e-7
    sure = torch.tensor([[0.0, -torch.inf, -torch.inf]]).expand(2, -1)
    assert token_value_correction(sure, torch.zeros(2, dtype=torch.long), R_TOKENS, t).abs().max() < 1e-6


R_TOKENS = torch.tensor([0.5, 2.0, 1.0])


def test_the_rate_cost_is_the_divergence_of_two_poisson_processes():
    t, r, r_hat = 0.4, 3.0, 0.7
    true, guess = (1 / (t * (1 - t + t * x)) for x in (r, r_hat))
    expected = (true * math.log(true / guess) - true + guess) / true
    found = contextual_correction(*(torch.tensor([x], dtype=torch.float64) for x in (r, r_hat, t)))
    assert float(found) == pytest.approx(expected, rel=1e-9)
