"""The laws of the masks: what is drawn, and what that is of the bound."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from hf_difflm.evaluation.protocols.laws import EPS, LAWS, rounded_counts

LLADA = Path(__file__).parents[2] / "fixtures" / "released" / "llada"


def _half_to_even(number: Fraction) -> int:
    return round(number)  # of Python: exact, half to even


def test_lladas_counts_are_not_uniform_where_a_batch_has_halves():
    np.testing.assert_allclose(LAWS["llada"].ratios(4, 8) / 4, [1 / 8, 3 / 8, 1 / 8, 3 / 8])
    uniform = {b: sum(np.allclose(LAWS["llada"].ratios(length, b), 1) for length in range(1, 65)) for b in (8, 16, 32)}
    assert uniform == {8: 9, 16: 5, 32: 3}  # L = 1, and multiples of b
    assert np.all(LAWS["llada"].ratios(7, 1) == 1)


@pytest.mark.parametrize("batch", [8, 16, 32])
def test_lladas_counts_are_those_of_exact_arithmetic(batch):
    for length in (1, 2, 3, 5, 8, 12, 23, 64):
        for k in range(1, length + 1):
            exact = [_half_to_even(k + Fraction(j * length, batch)) for j in range(batch)]
            assert rounded_counts(k, length, batch).tolist() == [(x - 1) % length + 1 for x in exact]


def test_lladas_counts_are_those_that_the_authors_code_drew():
    noisy = load_file(LLADA / "expected.safetensors")["likelihood_noisy"]
    official = json.loads((LLADA / "expected.json").read_text())["get_log_likelihood"]
    mask = json.loads((LLADA / "config.json").read_text())["mask_token_id"]
    counts_JD = (noisy == mask).sum(1).reshape(-1, official["batch_size"]).numpy()
    assert len(counts_JD) > 1
    for counts_D in counts_JD:
        np.testing.assert_array_equal(
            rounded_counts(int(counts_D[0]), noisy.shape[1] - official["prompt_length"], len(counts_D)), counts_D
        )


@pytest.mark.parametrize("name", LAWS)
def test_what_is_drawn_has_the_weights_that_the_law_says(name):
    """By many draws: a k-subset weighs r(k) / k; and every token is hidden as often as the others."""
    law, scored, batch = LAWS[name], 4, 8
    generator = np.random.default_rng(0)
    drawn = [law.draw(generator.random(), generator.random((batch, scored))) for _ in range(20_000)]
    k_D = np.concatenate([one.masked_DN.sum(-1) for one in drawn])
    weights_D = np.concatenate([one.weights_D for one in drawn])
    ratios_D = np.concatenate([one.ratios_D for one in drawn])
    found = [(weights_D * (k_D == k)).mean() for k in range(1, scored + 1)]
    expected = law.ratios(scored, batch) / np.arange(1, scored + 1)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    np.testing.assert_array_equal(ratios_D[k_D > 0], law.ratios(scored, batch)[k_D[k_D > 0] - 1])
    hidden_N = np.concatenate([one.masked_DN for one in drawn]).mean(0)
    np.testing.assert_allclose(hidden_N, hidden_N.mean(), rtol=0.02)


def test_dreams_weights_are_the_integral_over_its_probabilities():
    nodes, weights = np.polynomial.legendre.leggauss(60)
    p_T = EPS + (1 - EPS) * (nodes + 1) / 2
    for scored in (1, 4, 30):
        k = np.arange(1, scored + 1)
        chosen = np.array([math.comb(scored, one) for one in k.tolist()])
        each_TK = chosen * p_T[:, None] ** (k - 1) * (1 - p_T[:, None]) ** (scored - k)
        np.testing.assert_allclose(LAWS["dream"].ratios(scored, 8), k * (weights / 2 @ each_TK), rtol=1e-9)
    assert LAWS["dream"].ratios(4, 8)[0] < 1 < LAWS["dream"].ratios(4, 8)[1]


def test_what_is_said_of_the_masks_is_of_these_texts():
    assert "none here" in LAWS["llada"].why([8, 1, 16], 8)
    assert "not uniform" in LAWS["llada"].why([8, 4], 8)
