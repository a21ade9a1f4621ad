"""Sums, their intervals, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from hf_difflm.evaluation.audit.kraft import KraftSum, judge, kraft_sums


def test_an_exact_sum_is_the_sum_and_has_no_interval():
    p_S = np.array([0.5, 0.25, 0.25])
    (one,) = kraft_sums(-np.log(p_S)[None, None], 1)
    assert (one.value, one.half_width) == (pytest.approx(1), 0.0)
    assert not one.refutes
    assert str(one) == "1.000000"


def test_the_interval_covers_the_sum_that_noise_would_have_moved():
    generator = np.random.default_rng(0)
    nll_S = -np.log(generator.dirichlet(np.ones(16)))
    draws = nll_S + generator.normal(scale=1.5, size=(300, 40, 1, 16))  # audits, replicates
    plain = np.array([np.exp(-one.mean(0)).sum() for one in draws])
    sums = [kraft_sums(one, 1)[0] for one in draws]
    assert plain.mean() > 1.02  # exp(-mean) makes it larger
    assert np.mean([one.value for one in sums]) == pytest.approx(1, abs=0.01)
    assert np.mean([abs(one.value - 1) <= one.half_width for one in sums]) > 0.96  # 0.99 is wanted


def test_intervals_of_many_denoisers_are_wider():
    draws = np.random.default_rng(1).normal(2, 0.3, (50, 1, 8))
    assert kraft_sums(draws, 40)[0].half_width > 1.3 * kraft_sums(draws, 1)[0].half_width


@pytest.mark.parametrize(
    ("sums", "untold", "sentence", "code"),
    [
        ([KraftSum(1.0 + 5e-7)], None, "bound: no counterexample in 1 denoiser at V^L = 16", 0),
        ([KraftSum(0.3)] * 40, None, "bound: no counterexample in 40 denoisers at V^L = 16", 0),
        ([KraftSum(0.3), KraftSum(1.374)], None, "not a bound: sums to 1.37", 1),
        ([KraftSum(1.0001)], None, "not a bound: sums to 1.000100", 1),
        ([KraftSum(1.2, 0.1)], None, "not a bound: sums to 1.200 ± 0.100", 1),
        ([KraftSum(1.05, 0.08)], None, "bound: no counterexample in 1 denoiser at V^L = 16", 0),
        ([KraftSum(0.3), KraftSum(1.1, 0.2)], None, "cannot be told here: the sum of one denoiser is 1.100 ± 0.200", 1),
        ([KraftSum(float("nan"))], None, "cannot be told here: the sum of one denoiser is nan", 1),
        ([KraftSum(0.3)], "it is dark", "cannot be told here: it is dark", 1),
        ([KraftSum(1.4)], "it is dark", "not a bound: sums to 1.40", 1),
    ],
)
def test_the_verdict(sums, untold, sentence, code):
    verdict = judge(sums, 16, untold)
    assert verdict.sentence.startswith(sentence)
    assert verdict.exit_code == code
