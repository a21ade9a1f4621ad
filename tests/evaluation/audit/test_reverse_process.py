"""The law of the reverse process, against sums over orders and against the process in many small steps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hf_difflm.evaluation.audit.masks import time_nodes
from hf_difflm.evaluation.audit.reverse_process import sampler_law
from hf_difflm.evaluation.audit.tabular import all_sequences

LENGTH, VOCABULARY = 3, 2
STATES = all_sequences(LENGTH, VOCABULARY + 1)
NUMBER = {tuple(state): place for place, state in enumerate(STATES.tolist())}


@pytest.fixture(name="mu_ZLV")
def _table() -> np.ndarray:
    return np.random.default_rng(2).dirichlet(np.ones(VOCABULARY), (len(STATES), LENGTH))


def test_at_equal_rates_it_is_the_mean_over_all_orders(mu_ZLV):
    law_S = sampler_law(mu_ZLV[None, None], VOCABULARY)[0]
    for sequence, found in zip(all_sequences(LENGTH, VOCABULARY), law_S, strict=True):
        total = 0.0
        for order in itertools.permutations(range(LENGTH)):
            state, chance = [VOCABULARY] * LENGTH, 1.0
            for place in order:
                chance *= mu_ZLV[NUMBER[tuple(state)], place, sequence[place]]
                state[place] = sequence[place]
            total += chance / math.factorial(LENGTH)
        assert found == pytest.approx(total, abs=1e-12)


def in_small_steps(mu_ZLV: np.ndarray, r_LV: np.ndarray, steps: int) -> np.ndarray:
    """(S,) by the reverse step P(z_s = v) = mu_v (alpha_{s,v} - alpha_{t,v}) / (1 - alpha_{t,v}), positions apart."""
    at_Z = np.zeros(len(STATES))
    at_Z[-1] = 1.0
    times = np.linspace(1, 0, steps + 1)
    for t, s in itertools.pairwise(times):
        hidden = [now * r_LV / (1 - now + now * r_LV) for now in (s, t)]
        leaves_LV = 1 - hidden[0] / hidden[1]
        after_Z = np.zeros(len(STATES))
        for state, chance in zip(STATES, at_Z, strict=True):
            moves = []
            for place, token in enumerate(state):
                if token < VOCABULARY:
                    moves.append([(token, 1.0)])
                    continue
                out_V = mu_ZLV[NUMBER[tuple(state)], place] * leaves_LV[place]
                moves.append([(VOCABULARY, 1 - out_V.sum()), *enumerate(out_V)])
            for choice in itertools.product(*moves):
                after_Z[NUMBER[tuple(int(token) for token, _ in choice)]] += chance * math.prod(p for _, p in choice)
        at_Z = after_Z
    return at_Z[(STATES < VOCABULARY).all(-1)]


@pytest.mark.parametrize("kind", ["by position", "by token"])
def test_at_other_rates_it_is_what_small_steps_tend_to(mu_ZLV, kind):
    r_LV = np.array([[0.3, 0.3], [1.0, 1.0], [3.5, 3.5]]) if kind == "by position" else np.array([[0.4, 3.0]] * 3)
    t_T, _ = time_nodes()
    rates_TZLV = mu_ZLV / (1 - t_T[:, None, None, None] * (1 - r_LV))
    law_S = sampler_law(rates_TZLV[None], VOCABULARY)[0]
    assert law_S.sum() == pytest.approx(1, abs=1e-12)
    coarse, fine = (in_small_steps(mu_ZLV, r_LV, steps) for steps in (60, 120))
    # Errors fall as 1 / steps, so twice the finer less the coarser is nearer still.
    np.testing.assert_allclose(2 * fine - coarse, law_S, atol=3e-4)
    assert np.abs(fine - law_S).max() < 0.6 * np.abs(coarse - law_S).max()
    at_equal_rates = sampler_law(mu_ZLV[None, None], VOCABULARY)[0]
    assert np.abs(at_equal_rates - law_S).max() > 5e-3  # the schedules matter
