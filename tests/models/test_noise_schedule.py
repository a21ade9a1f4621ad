"""Every schedule counts each token once, starts readable, ends hidden, and its rate is the derivative it claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.models.masked_diffusion.noise_schedule import SCHEDULES, NoiseSchedule
from hf_difflm.models.options import NOISE_SCHEDULES

NODE, WEIGHT = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(200))
schedules = st.builds(
    NoiseSchedule,
    name=st.sampled_from(SCHEDULES),
    exponent=st.floats(0.5, 6.0),
    sigma_min=st.floats(1e-5, 1e-1),
    sigma_max=st.floats(1.0, 30.0),
)


@given(schedules)
def test_everything_is_readable_at_time_0_and_hidden_at_time_1(schedule):
    ends = schedule.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64))
    np.testing.assert_allclose(ends, [1.0, 0.0], atol=1e-12)


@given(schedules)
def test_alpha_falls_and_stays_a_probability(schedule):
    alpha = schedule.alpha(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert (alpha.diff() <= 0).all()
    assert (alpha >= -1e-12).all()
    assert (alpha <= 1).all()


@given(schedules, st.floats(0.01, 0.99))
def test_the_rate_is_minus_the_derivative_of_alpha_over_its_complement(schedule, time):
    t = torch.tensor(time, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    (slope,) = torch.autograd.grad(alpha, t)
    expected = -slope / schedule.mask_probability(t)
    assert float(schedule.rate(t.detach())) == pytest.approx(float(expected.detach()), rel=1e-8)


@given(schedules)
def test_each_token_is_counted_once(schedule):
    """E[integral of rate * 1(masked)] = integral of rate(t) (1 - alpha(t)) dt = 1 per token."""
    # t = s^4 tames the integrable t^(w - 1) of the polynomial schedule with w < 1.
    s = (NODE + 1) / 2
    t = s**4
    integrand = schedule.rate(t) * schedule.mask_probability(t) * 4 * s**3
    assert float(integrand @ WEIGHT / 2) == pytest.approx(1.0, abs=1e-6)


@given(schedules)
def test_small_times_lose_no_digits(schedule):
    """float32 keeps the mask probability near 0 to its own precision: nothing is subtracted from 1 on the way."""
    t = torch.logspace(-6, -2, 20, dtype=torch.float64)
    exact = schedule.mask_probability(t)
    np.testing.assert_allclose(schedule.mask_probability(t.float()).double(), exact, rtol=1e-5)


def test_linear_and_loglinear_are_one_curve():
    t = torch.linspace(0.1, 1, 10)
    assert torch.equal(NoiseSchedule("linear").rate(t), NoiseSchedule("loglinear").rate(t))
    assert torch.equal(NoiseSchedule("linear").alpha(t), NoiseSchedule("loglinear").alpha(t))


def test_the_options_offer_exactly_the_schedules_there_are():
    assert set(NOISE_SCHEDULES) == set(SCHEDULES)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "cosin"}, "cosin"),
        ({"name": "polynomial", "exponent": 0.0}, "schedule_exponent"),
        ({"name": "geometric", "sigma_min": 0.0}, "sigma_min"),
        ({"name": "geometric", "sigma_min": 2.0, "sigma_max": 1.0}, "sigma_max"),
    ],
)
def test_a_parameter_out_of_range_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        NoiseSchedule(**wrong)
