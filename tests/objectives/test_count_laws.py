"""Laws of the number of hidden tokens: drawn as often as said, with the weights that were asked for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.objectives import CountLaw, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.count_laws import draw_counts

LAWS = [
    CountLaw(),
    CountLaw("importance"),
    CountLaw("importance", exponent=0.8),
    CountLaw("bell"),
    CountLaw("bell", centre=0.9, width=0.02, uniform_share=0.01),
    CountLaw("optimal"),
    CountLaw("optimal", moments=tuple(float(k) for k in range(1, 17))),
]
WEIGHTS = ["nelbo", "flat", "0.5", "1"]
every_law = pytest.mark.parametrize("law", LAWS, ids=lambda law: law.describe())


def power_of(weight: str) -> float:
    return 0.0 if weight == "flat" else float(weight)


@settings(max_examples=20, deadline=None)
@given(scored=st.integers(1, 1500), law=st.sampled_from(LAWS))
def test_a_grid_of_numbers_gives_every_count_its_share_and_draws_weigh_one_on_average(scored, law):
    points = 40_000
    k, weights, draws = draw_counts(law, "nelbo", (np.arange(points) + 0.5) / points, np.full(points, scored))
    assert (np.diff(k) >= 0).all()
    assert k.min() >= 1
    assert k.max() <= scored
    law_L = law.probabilities(scored)
    assert law_L.min() > 0
    assert law_L.sum() == pytest.approx(1)
    share = np.bincount(k, minlength=scored + 1)[1:] / points
    np.testing.assert_allclose(share, law_L, atol=2 / points)
    np.testing.assert_allclose(weights, 1 / (k * law_L[k - 1]), rtol=1e-12)
    np.testing.assert_allclose(draws, 1 / (scored * law_L[k - 1]), rtol=1e-12)


def test_no_draw_by_importance_weighs_more_than_that_of_all_tokens():
    for scored in (1, 7, 1024, 100_000):
        assert 1 / (scored * CountLaw("importance").probabilities(scored)).min() < 1.5 + 1e-9


@every_law
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("scored", [1, 2, 17, 300])
def test_the_hidden_tokens_of_a_sequence_weigh_as_much_as_it_has_tokens(law, weight, scored):
    """E[k w(k)] = L, so that rates and clipping mean the same under every law and weight."""
    p_L, cumulated = law.probabilities(scored), np.concatenate([[0], np.cumsum(law.probabilities(scored))])
    k, weights, _ = draw_counts(law, weight, (cumulated[:-1] + cumulated[1:]) / 2, np.full(scored, scored))
    assert k.tolist() == list(range(1, scored + 1))
    assert p_L @ (k * weights) == pytest.approx(scored, rel=1e-9)
    if weight != "nelbo":
        np.testing.assert_allclose(weights / weights[0], k ** -power_of(weight), rtol=1e-12)


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=20), seed=st.integers(0, 2**32))
@every_law
def test_rows_of_several_lengths_are_drawn_each_by_its_own(law, lengths, seed):
    u = np.random.default_rng(seed).random(len(lengths))
    drawn = draw_counts(law, "flat", u, np.array(lengths))
    for row, scored in enumerate(lengths):
        alone = draw_counts(law, "flat", u[row : row + 1], np.array([scored]))
        assert [values[row] for values in drawn] == [values[0] for values in alone]
        assert 1 <= drawn.k_B[row] <= max(scored, 1)


@every_law
def test_a_number_just_below_one_is_all_tokens(law):
    lengths = np.array([1, 7, 1024])
    assert draw_counts(law, "nelbo", np.full(3, np.nextafter(1.0, 0.0)), lengths).k_B.tolist() == lengths.tolist()


def test_a_bell_is_over_the_share_of_the_rows_own_tokens():
    law = CountLaw("bell", centre=0.4, width=0.2, uniform_share=0.1)
    for scored in (20, 200):
        rates = (np.arange(1, scored + 1) - 0.5) / scored
        density = np.exp(-((rates - 0.4) ** 2) / (2 * 0.2**2))
        np.testing.assert_allclose(law.probabilities(scored), 0.9 * density / density.sum() + 0.1 / scored)


def test_the_optimal_law_gives_draws_to_the_counts_by_the_root_of_their_second_moment():
    law = CountLaw("optimal", moments=(4.0,) * 16)
    k = np.arange(1, 101)
    np.testing.assert_allclose(law.probabilities(100), 0.9 * k**-0.5 / (k**-0.5).sum() + 0.1 / 100)
    uneven = CountLaw("optimal", moments=tuple([1.0] * 8 + [9.0] * 8)).probabilities(1600)
    assert (uneven[1499] - 0.1 / 1600) / (uneven[99] - 0.1 / 1600) == pytest.approx(3 * math.sqrt(100 / 1500))


@pytest.mark.parametrize(
    "wrong",
    [
        {"count_law": CountLaw("bell"), "loss_form": "time"},
        {"count_law": CountLaw("bell"), "noise_sampling": "pairs"},
        {"loss_weight": "flat", "noise_sampling": "pairs"},
        {"count_law": CountLaw("optimal"), "static_shapes": True},
    ],
)
def test_what_is_not_sound_is_no_objective(wrong):
    with pytest.raises(ValueError, match=r"exact counts|have a bound"):
        MaskedDiffusionObjective(9, **wrong)
    with pytest.raises(ValueError, match="gauss"):
        CountLaw("gauss")


@every_law
def test_a_sequence_without_scored_tokens_has_no_part_in_anything(law):
    scored = np.zeros((16, 5), dtype=bool)
    scored[1, 2:] = True
    corruption = MaskedDiffusionObjective(9, count_law=law).corrupt(scored, NoiseKey(0, 0, np.arange(16), 16))
    assert corruption.masked_BL.any(-1).tolist() == [False, True, *[False] * 14]
    assert np.isfinite(corruption.weights_B).all()


@pytest.mark.parametrize(("sequences", "by_importance"), [(1, False), (15, False), (16, True)])
def test_a_few_sequences_of_an_evaluation_are_drawn_uniformly_and_of_a_training_as_it_says(sequences, by_importance):
    scored, key = np.ones((sequences, 50), dtype=bool), NoiseKey(0, 0, np.arange(sequences), sequences)
    evaluation = MaskedDiffusionObjective(9).for_evaluation()
    assert (evaluation.corrupt(scored, key).draw_weights_B is not None) is by_importance
    training = MaskedDiffusionObjective(9, count_law=CountLaw("importance"))
    assert training.corrupt(scored, key).draw_weights_B is not None


@pytest.mark.parametrize("law", LAWS[1:], ids=lambda law: law.describe())
def test_counts_are_one_in_each_stratum_of_the_optimiser_batch(law):
    size, scored = 32, 640
    p_L = law.probabilities(scored)
    middle = np.cumsum(p_L) - p_L / 2
    for step in range(20):
        masked = MaskedDiffusionObjective(9, count_law=law).corrupt(
            np.ones((size, scored), dtype=bool), NoiseKey(0, step, np.arange(size), size)
        )
        u = np.sort(middle[masked.masked_BL.sum(-1) - 1])
        assert np.abs(u - (np.arange(size) + 0.5) / size).max() < 0.5 / size + p_L.max()


# ---- gradients ----


def gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def stated_gradient(model, ids_L: torch.Tensor, mask: int, law: CountLaw, weight: str) -> torch.Tensor:
    """From the logits of all masks: sum_k p(k) w(k) times the mean over the k-subsets of the sum of their cross-entropies."""
    length = len(ids_L)
    p_L, k_L = law.probabilities(length), np.arange(1, length + 1)
    w_L = 1 / (k_L * p_L)
    if weight != "nelbo":
        w_L = k_L ** -power_of(weight) * length / (p_L @ k_L ** (1 - power_of(weight)))
    masks_ML = torch.tensor(list(itertools.product([False, True], repeat=length))[1:])
    logits_MLV = model(ids_L.expand(len(masks_ML), -1).masked_fill(masks_ML, mask)).logits
    nll_ML = -logits_MLV.log_softmax(-1).gather(-1, ids_L.expand(len(masks_ML), -1)[..., None]).squeeze(-1)
    counts_M = masks_ML.sum(-1)
    each_M = torch.tensor([p_L[k - 1] * w_L[k - 1] / math.comb(length, k) for k in counts_M.tolist()])
    model.zero_grad()
    ((nll_ML.where(masks_ML, 0.0).sum(-1) * each_M).sum() / length).backward()
    return gradient(model)


@pytest.mark.parametrize("weight", WEIGHTS)
@every_law
def test_the_expected_gradient_is_that_of_the_stated_objective(tiny_denoiser, law, weight):
    """All counts and all subsets of a sequence, each as often as the law says, against the logits of all masks."""
    model, length = tiny_denoiser(vocab_size=8, seed=1).eval(), 5
    ids = torch.tensor([3, 1, 6, 2, 5])
    truth = stated_gradient(model, ids, 7, law, weight)
    objective = MaskedDiffusionObjective(7, count_law=law, loss_weight=weight)
    p_L = law.probabilities(length)
    cumulated = np.concatenate([[0], np.cumsum(p_L)])
    found = torch.zeros_like(truth)
    for k in range(1, length + 1):
        subsets = list(itertools.combinations(range(length), k))
        scores = np.array(
            [[0.1 + 0.01 * i if i in subset else 0.9 + 0.01 * i for i in range(length)] for subset in subsets]
        )
        u_B = np.full(len(subsets), (cumulated[k - 1] + cumulated[k]) / 2)
        chosen = objective._exact_counts(law, u_B, scores, np.full(len(subsets), length))
        objective.corrupt = lambda scored_BL, key, chosen=chosen: chosen
        batch = {"input_ids": ids.expand(len(subsets), -1), "labels": ids.expand(len(subsets), -1)}
        model.zero_grad()
        objective(
            model, batch, NoiseKey(0, 0, np.arange(len(subsets)), len(subsets)), length * len(subsets)
        ).loss.backward()
        found += p_L[k - 1] * gradient(model)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-6)
    bound = stated_gradient(model, ids, 7, CountLaw(), "nelbo")
    same = weight == "nelbo" or (law.name == "uniform" and weight == "1")
    assert torch.allclose(truth, bound, rtol=1e-4, atol=1e-6) is same
