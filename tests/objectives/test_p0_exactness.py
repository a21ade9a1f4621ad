"""P0 is what it says: with perfect conditionals it is the entropy, and it is the exact NELBO of any network."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from hf_difflm.evaluation.audit.numbers import ObjectiveNumber
from hf_difflm.evaluation.audit.tabular import all_sequences
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import CountLaw, MaskedDiffusionObjective, NoiseKey

SCHEDULES = [
    NoiseSchedule("loglinear"),
    NoiseSchedule("linear"),
    NoiseSchedule("cosine"),
    NoiseSchedule("polynomial", exponent=2.0),
    NoiseSchedule("polynomial", exponent=3.5),
    NoiseSchedule("geometric"),
    NoiseSchedule("geometric", sigma_min=1e-2, sigma_max=5.0),
]


LAWS = [
    CountLaw("importance"),
    CountLaw("bell"),
    CountLaw("bell", centre=0.7, width=0.1, uniform_share=0.02),
    CountLaw("optimal"),
    CountLaw("optimal", moments=tuple(1.0 + np.arange(16.0))),
]


def name_of(schedule: NoiseSchedule) -> str:
    return f"{schedule.name}-{schedule.exponent:g}-{schedule.sigma_max:g}"


class One:
    """Any network as the one denoiser that reads all rows."""

    count = 1

    def __init__(self, model) -> None:
        self.model = model

    def read_rows(self, rows_B, gradient_weights_B=None) -> None:
        pass

    def __call__(self, **inputs: Any):
        return self.model(**inputs)


def any_order_nelbo(model, mask_token_id: int, sequences_SL: np.ndarray, **law: Any) -> np.ndarray:
    """(S,) what is minimised of exact counts, by enumerating every count k and every k-subset."""
    return ObjectiveNumber(MaskedDiffusionObjective(mask_token_id, **law), sequences_SL).values(One(model))[0, 0]


def time_nelbo(model, mask_token_id: int, schedule: NoiseSchedule, sequences_SL: np.ndarray, nodes: int) -> np.ndarray:
    """(S,) the time form: every subset at every node of a Gauss-Legendre quadrature over t."""
    objective = MaskedDiffusionObjective(mask_token_id, "time", schedule=schedule)
    return ObjectiveNumber(objective, sequences_SL, nodes=nodes).values(One(model))[0, 0]


@pytest.mark.parametrize(("length", "vocabulary"), [(1, 3), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_any_order_form_with_exact_conditionals_is_the_entropy(small_joint, exact_denoiser, length, vocabulary):
    joint = small_joint(length, vocabulary, seed=length + 10 * vocabulary)
    nelbo = any_order_nelbo(exact_denoiser(joint), vocabulary, all_sequences(length, vocabulary))
    entropy = -(joint * np.log(joint)).sum()
    assert nelbo @ joint.flatten() == pytest.approx(entropy, abs=1e-6)
    # More than that: with a tree of exact conditionals it is -log p(x), sequence by sequence.
    np.testing.assert_allclose(nelbo, -np.log(joint).flatten(), atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_time_form_with_exact_conditionals_is_the_entropy_under_every_schedule(small_joint, exact_denoiser, schedule):
    joint = small_joint(3, 3, seed=5)
    nelbo = time_nelbo(exact_denoiser(joint), 3, schedule, all_sequences(3, 3), nodes=160)
    assert nelbo @ joint.flatten() == pytest.approx(-(joint * np.log(joint)).sum(), abs=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.describe())
def test_every_law_of_the_counts_gives_the_same_number_with_the_weights_of_the_bound(random_denoiser, law, length):
    model, sequences = random_denoiser(length, 2, seed=3), all_sequences(length, 2)
    uniform = any_order_nelbo(model, 2, sequences)
    np.testing.assert_allclose(any_order_nelbo(model, 2, sequences, count_law=law), uniform, rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name_of)
def test_both_forms_are_the_same_number_for_a_denoiser_that_fits_nothing(random_denoiser, schedule):
    model, sequences = random_denoiser(3, 2, seed=3), all_sequences(3, 2)
    exact = any_order_nelbo(model, 2, sequences)
    np.testing.assert_allclose(time_nelbo(model, 2, schedule, sequences, nodes=160), exact, atol=1e-6)


def test_the_cosine_schedule_needs_its_own_rate(random_denoiser, monkeypatch):
    """1 / p_mask in place of the rate is not the NELBO: the test above can fail."""
    monkeypatch.setattr(NoiseSchedule, "rate", lambda self, t: 1 / self.mask_probability(t))
    model, sequences = random_denoiser(3, 2, seed=3), all_sequences(3, 2)
    wrong = time_nelbo(model, 2, NoiseSchedule("cosine"), sequences, nodes=160)
    assert np.abs(wrong - any_order_nelbo(model, 2, sequences)).max() > 0.1


def exact_nelbo_of_network(model, ids_L: torch.Tensor, mask_token_id: int) -> float:
    """The NELBO of one sequence from the logits of all 2^L - 1 masks, without the objective's code.

    L E_k E_M [(1/k) sum_M ce]: each subset M of size k has weight 1 / (k C(L, k)).
    """
    length = len(ids_L)
    masks_ML = torch.tensor(list(itertools.product([False, True], repeat=length))[1:])
    with torch.no_grad():
        logits_MLV = model(ids_L.expand(len(masks_ML), -1).masked_fill(masks_ML, mask_token_id)).logits
    nll_ML = -logits_MLV.double().log_softmax(-1).gather(-1, ids_L.expand(len(masks_ML), -1)[..., None]).squeeze(-1)
    k_M = masks_ML.sum(-1)
    weights_M = torch.tensor([1 / (k * math.comb(length, k)) for k in k_M.tolist()])
    return float((nll_ML.where(masks_ML, 0.0).sum(-1) * weights_M).sum())


def test_enumerated_objective_is_the_nelbo_of_a_network_from_its_logits(tiny_denoiser):
    model = tiny_denoiser(vocab_size=8, seed=1).eval()
    ids = torch.tensor([3, 1, 6, 2, 2, 5])
    assert any_order_nelbo(model, 7, ids[None].numpy())[0] == pytest.approx(
        exact_nelbo_of_network(model, ids, 7), rel=1e-5
    )


@pytest.mark.parametrize(
    ("form", "sampling", "schedule"),
    [
        *(
            (form, sampling, schedule)
            for form, schedule in [
                ("any_order", None),
                ("time", NoiseSchedule("cosine")),
                ("time", NoiseSchedule("polynomial", exponent=1.5)),
            ]
            for sampling in ("stratified", "iid")
        ),
        ("any_order", LAWS[0], None),
        ("any_order", LAWS[1], None),
    ],
)
def test_monte_carlo_estimate_agrees_with_the_enumeration_within_three_standard_errors(
    tiny_denoiser, form, schedule, sampling
):
    model = tiny_denoiser(vocab_size=8, seed=1).eval()
    ids = torch.tensor([3, 1, 6, 2, 2, 5])
    truth = exact_nelbo_of_network(model, ids, 7)
    if isinstance(sampling, CountLaw):
        objective = MaskedDiffusionObjective(7, count_law=sampling)
    else:
        objective = MaskedDiffusionObjective(7, form, sampling, schedule)
    size, replicates = 128, 40
    batch = {"input_ids": ids.expand(size, -1), "labels": ids.expand(size, -1)}
    with torch.no_grad():
        means = [
            float(objective(model, batch, NoiseKey(11, step, np.arange(size), size), size).loss)
            for step in range(replicates)
        ]
    stderr = np.std(means, ddof=1) / math.sqrt(replicates)
    assert abs(np.mean(means) - truth) < 3 * stderr
    assert stderr < 0.02 * truth  # the agreement says something


def test_mean_over_all_masked_positions_of_the_batch_would_be_another_number(random_denoiser):
    """The loss weighs each sequence by L/k; sum CE / sum k over the batch is biased, and seen to be."""
    model, ids = random_denoiser(3, 3, seed=1), np.repeat([[0, 2, 1]], 30_000, axis=0)
    truth = any_order_nelbo(model, 3, ids[:1])[0] / 3
    batch = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(ids)}
    with torch.no_grad():
        output = MaskedDiffusionObjective(3)(model, batch, NoiseKey(0, 0, np.arange(len(ids)), len(ids)), ids.size)
    assert float(output.loss.detach()) == pytest.approx(truth, rel=0.01)
    assert abs(float(output.token_nll_N.mean()) / truth - 1) > 0.03
