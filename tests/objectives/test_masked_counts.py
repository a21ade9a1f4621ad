"""Counts drawn by importance: as often as said, with weights that make up for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.objectives import MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.masked_counts import counts_by_importance


@given(scored=st.integers(1, 3000))
def test_a_grid_of_numbers_gives_every_count_its_share_and_weights_with_a_mean_of_one(scored):
    """Each count's weight, from the share of a fine grid that falls to it, is 1 / (L p(k))."""
    points = 40_000
    counts, weights = counts_by_importance((np.arange(points) + 0.5) / points, np.full(points, scored))
    assert (np.diff(counts) >= 0).all()
    assert counts[0] == 1
    assert counts[-1] == scored
    law = np.arange(1, scored + 1) ** (-1 / 3)
    law /= law.sum()
    share = np.bincount(counts, minlength=scored + 1)[1:] / points
    np.testing.assert_allclose(share, law, atol=2 / points)
    np.testing.assert_allclose(weights, 1 / (scored * law[counts - 1]), rtol=1e-12)
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.max() < 1.5 + 1e-9  # of k = L, however long the text


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=20), seed=st.integers(0, 2**32))
def test_rows_of_several_lengths_are_drawn_each_by_its_own(lengths, seed):
    u = np.random.default_rng(seed).random(len(lengths))
    counts, weights = counts_by_importance(u, np.array(lengths))
    for row, scored in enumerate(lengths):
        alone = counts_by_importance(u[row : row + 1], np.array([scored]))
        assert (counts[row], weights[row]) == (alone[0][0], alone[1][0])
        assert 1 <= counts[row] <= max(scored, 1)


def test_a_number_just_below_one_is_all_tokens():
    counts, _ = counts_by_importance(np.full(3, np.nextafter(1.0, 0.0)), np.array([1, 7, 1024]))
    assert counts.tolist() == [1, 7, 1024]


def test_importance_is_of_exact_counts_and_has_no_static_shapes():
    with pytest.raises(ValueError, match="importance is of exact counts"):
        MaskedDiffusionObjective(9, "time", "importance")
    with pytest.raises(ValueError, match="counts that have a bound"):
        MaskedDiffusionObjective(9, noise_sampling="importance", static_shapes=True)


def test_a_sequence_without_scored_tokens_has_no_part_in_anything():
    scored = np.zeros((16, 5), dtype=bool)
    scored[1, 2:] = True
    corruption = MaskedDiffusionObjective(9, noise_sampling="importance").corrupt(
        scored, NoiseKey(0, 0, np.arange(16), 16)
    )
    assert corruption.masked_BL.any(-1).tolist() == [False, True, *[False] * 14]
    assert np.isfinite(corruption.weights_B).all()


@pytest.mark.parametrize(("sequences", "by_importance"), [(1, False), (15, False), (16, True)])
def test_a_few_sequences_are_drawn_uniformly(sequences, by_importance):
    scored = np.ones((sequences, 50), dtype=bool)
    objective = MaskedDiffusionObjective(9, noise_sampling="importance")
    corruption = objective.corrupt(scored, NoiseKey(0, 0, np.arange(sequences), sequences))
    assert (corruption.draw_weights_B is not None) is by_importance
