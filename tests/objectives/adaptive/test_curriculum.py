"""A curriculum is a function of progress: its stages, its pace, and weights of mean 1 that end at exactly 1."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_difflm.errors import UserError
from hf_difflm.objectives.adaptive.curriculum import PRESETS, Curriculum, quantiles
from hf_difflm.objectives.adaptive.names import CURRICULUM_SCHEDULES

curricula = st.builds(
    lambda bounds, schedule: Curriculum((min(bounds), max(bounds)), schedule),
    st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    st.sampled_from(CURRICULUM_SCHEDULES),
)
shares = st.floats(0, 1)
difficulties = hnp.arrays(np.float64, (4, 9), elements=st.floats(0, 1))
scores = hnp.arrays(bool, (4, 9))


@pytest.mark.parametrize(
    ("option", "stages"),
    [
        ("thirds", [1, 1, 2, 2, 3, 3, 3]),
        ("30-70", [1, 2, 2, 2, 3, 3, 3]),
        ("early", [2, 3, 3, 3, 3, 3, 3]),
        ("late", [1, 1, 1, 2, 2, 3, 3]),
        (".3/.7", [1, 2, 2, 2, 3, 3, 3]),
        ("0.25,0.95", [1, 2, 2, 2, 2, 2, 3]),
    ],
)
def test_the_stages_of_each_option(option, stages):
    curriculum = Curriculum.from_option(option)
    assert curriculum is not None
    assert [curriculum.stage(progress) for progress in (0.2, 0.32, 0.4, 0.6, 0.7, 0.92, 1.0)] == stages


def test_none_is_no_curriculum():
    assert Curriculum.from_option("none") is None


@pytest.mark.parametrize(
    ("option", "schedule", "said"),
    [
        ("third", "linear", "did you mean 'thirds'"),
        ("0.5", "linear", "0.5"),
        ("0.7,0.3", "linear", "0.7 and 0.3"),
        ("0.3,1.0", "linear", "true objective"),
        ("nan,0.4", "linear", "nan"),
        ("thirds", "exponentail", "did you mean 'exponential'"),
    ],
)
def test_what_is_no_curriculum_is_named(option, schedule, said):
    with pytest.raises(UserError, match=said):
        Curriculum.from_option(option, schedule)


@given(curricula, shares, shares)
def test_stage_and_pace_never_go_back_and_the_last_stage_has_it_all(curriculum, one, two):
    early, late = sorted((one, two))
    assert curriculum.stage(early) <= curriculum.stage(late)
    assert 0 <= curriculum.pace(early) <= curriculum.pace(late) <= 1
    if curriculum.stage(late) == 3:
        assert curriculum.pace(late) == 1


@given(curricula, shares, difficulties, scores)
def test_weights_have_mean_one_over_the_scored_tokens_of_each_sequence(curriculum, progress, difficulty, scored):
    weights = curriculum.weights(difficulty, scored, progress)
    assert (weights[~scored] == 0).all()
    assert (weights[scored] > 0).all()
    for weights_L, scored_L in zip(weights, scored, strict=True):
        if scored_L.any():
            assert weights_L[scored_L].mean() == pytest.approx(1, rel=1e-12)
    if curriculum.stage(progress) == 3:
        assert (weights[scored] == 1).all()


@given(curricula, shares, difficulties)
def test_harder_tokens_never_weigh_more_and_equal_ones_weigh_the_same(curriculum, progress, difficulty):
    difficulty = difficulty.round(1)
    weights = curriculum.weights(difficulty, np.ones((4, 9), dtype=bool), progress)
    for difficulty_L, weights_L in zip(difficulty, weights, strict=True):
        order = np.argsort(difficulty_L)
        assert (np.diff(weights_L[order]) <= 0).all()
        for value in np.unique(difficulty_L):
            assert len(np.unique(weights_L[difficulty_L == value])) == 1


@given(curricula, shares, st.floats(0, 1))
def test_tokens_that_are_all_alike_weigh_one(curriculum, progress, value):
    weights = curriculum.weights(np.full((2, 5), value), np.ones((2, 5), dtype=bool), progress)
    np.testing.assert_allclose(weights, 1, rtol=1e-12)


def test_at_the_start_the_easiest_third_counts_and_the_hardest_hardly():
    difficulty = np.linspace(0, 1, 30)[None]
    weights = Curriculum().weights(difficulty, np.ones((1, 30), dtype=bool), 0.0)[0]
    assert len(np.unique(weights[:10])) == 1
    assert weights[0] > 1.5
    assert weights[-1] == pytest.approx(0.1 * weights[0])


def test_the_schedules_differ_as_they_say():
    linear, step, exponential = (Curriculum(PRESETS["thirds"], name) for name in ("linear", "step", "exponential"))
    assert [linear.pace(p) for p in (0, 1 / 6, 1 / 3, 0.5, 0.99)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert [step.pace(p) for p in (0, 0.3, 0.34, 0.66, 0.67)] == [0, 0, 0.5, 0.5, 1]
    # A slow start is slow: half way to the last stage a twentieth of the way is done.
    assert exponential.pace(1 / 3) < 0.05
    assert exponential.pace(1 / 6) < 0.01
    assert exponential.pace(0.666) > 0.95


def test_quantiles_count_ties_half_and_leave_context_out():
    values = np.array([[3.0, 9.0, 1.0, 3.0, 7.0]])
    scored = np.array([[True, False, True, True, True]])
    np.testing.assert_allclose(quantiles(values, scored), [[2 / 4, 0, 0.5 / 4, 2 / 4, 3.5 / 4]])


@given(difficulties, scores)
def test_quantiles_are_the_mean_of_what_each_pair_says(values, scored):
    pairs = ((values[:, :, None] - values[:, None, :]) / 0.02 + 0.5).clip(0, 1) * scored[:, None, :]
    expected = pairs.sum(-1) / np.maximum(scored.sum(-1, keepdims=True), 1) * scored
    np.testing.assert_allclose(quantiles(values, scored), expected, atol=1e-9)


@given(difficulties, scores, shares, st.integers(0, 2**32 - 1))
def test_rounding_moves_no_weight_by_more_than_rounding(values, scored, progress, seed):
    """Also where many tokens are alike: another order of theirs is no other curriculum."""
    values = values.round(1)
    moved = values + np.random.default_rng(seed).uniform(-1e-9, 1e-9, values.shape)
    ours, theirs = (Curriculum().weights(v, scored, progress) for v in (values, moved))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
