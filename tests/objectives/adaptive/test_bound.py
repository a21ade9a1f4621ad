"""P1 and P2 are tight, P3 is a bound, and cross-entropy alone is not: by enumeration of small joint distributions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from exact_process import Perfect, Process

from hf_difflm.evaluation.audit.numbers import ObjectiveNumber
from hf_difflm.objectives import AdaptiveSettings, NoiseKey
from hf_difflm.objectives.adaptive.bound import AdaptiveBound
from hf_difflm.objectives.adaptive.importance_values import ImportanceReader

NODES = 40  # of the quadrature over t: the integrands are smooth, for r is between 1/4 and 4

COUNTS = np.array([620, 270, 100, 0])  # a common, a middling and a rare token, and the mask


class ReadOff(torch.nn.Module):
    """The rate head for which the hidden state is the answer."""

    def forward(self, hidden_ND, t_N):
        return hidden_ND.squeeze(-1)


class ChosenSchedules(AdaptiveBound):
    """The bound with schedules of our choice."""

    r_SL: np.ndarray
    vocabulary: int

    def odds_ratios(self, ids_BL, scored_BL, importance, progress):
        return self.r_SL[np.ravel_multi_index(tuple(ids_BL.T), (self.vocabulary,) * ids_BL.shape[1])]


def value_of(bound: AdaptiveBound, model, process: Process) -> np.ndarray:
    """(S,) the bound of each sequence: every mask, at every node of a Gauss-Legendre quadrature over t."""
    return ObjectiveNumber(bound, process.sequences_SL, nodes=NODES).values(model)[0, 0]


def bound_for(process: Process, form: str, tilt: bool = False) -> ChosenSchedules:
    """The bound of this form, whose schedules are those of the process."""
    settings = {
        "p1": AdaptiveSettings("none", "none", position_bias=1.0),
        "p2": AdaptiveSettings("frequency_only", posterior_tilt=tilt),
        "p3": AdaptiveSettings("learned_only"),  # no estimator is tested: the schedules are given
    }[form]
    read = settings if form != "p3" else AdaptiveSettings("frequency_only")
    reader = ImportanceReader(read, None, COUNTS[: process.vocabulary + 1])
    bound = ChosenSchedules(process.vocabulary, settings, reader, ReadOff())
    bound.r_SL, bound.vocabulary = process.r_SL, process.vocabulary
    return bound


def by_place(joint: np.ndarray) -> Process:
    r_L = np.array([0.4, 2.5, 1.3])[: joint.ndim]
    return Process(joint, np.tile(r_L, (joint.size, 1)))


def by_token(joint: np.ndarray) -> Process:
    settings = AdaptiveSettings("frequency_only")
    r_V = ImportanceReader(settings, None, COUNTS[: joint.shape[0] + 1]).token_value_r(1.0)
    return Process(joint, r_V[np.array(list(itertools.product(range(joint.shape[0]), repeat=joint.ndim)))])


def by_context(joint: np.ndarray) -> Process:
    return Process(joint, np.exp(np.random.default_rng(4).uniform(-1.3, 1.3, (joint.size, joint.ndim))))


SIZES = [(1, 3), (2, 2), (2, 3), (3, 2)]


@pytest.mark.parametrize(("length", "vocabulary"), SIZES)
def test_p1_with_exact_conditionals_is_the_entropy(small_joint, length, vocabulary):
    process = by_place(small_joint(length, vocabulary, seed=1))
    # Being masked says nothing about a token here, so the conditionals are all there is to know, at any time.
    model = Perfect(process, "posterior", reads_time=False)
    values_S = value_of(bound_for(process, "p1"), model, process)
    assert values_S @ process.p_S == pytest.approx(process.entropy, abs=1e-6)
    np.testing.assert_allclose(values_S, -np.log(process.p_S), atol=1e-6)


@pytest.mark.parametrize(("length", "vocabulary"), SIZES)
def test_p2_with_its_posterior_is_the_entropy(small_joint, length, vocabulary):
    process = by_token(small_joint(length, vocabulary, seed=2))
    assert process.r_SL.max() / process.r_SL.min() > 2
    values_S = value_of(bound_for(process, "p2"), Perfect(process, "posterior"), process)
    assert values_S @ process.p_S == pytest.approx(process.entropy, abs=2e-6)


def test_p2_with_conditionals_in_place_of_its_posterior_is_above_the_entropy(small_joint):
    process = by_token(small_joint(2, 3, seed=2))
    model = Perfect(process, "posterior", reads_time=False)
    values_S = value_of(bound_for(process, "p2"), model, process)
    assert values_S @ process.p_S > process.entropy + 0.01


def test_the_tilt_makes_conditionals_the_posterior_of_independent_tokens(small_joint):
    """So P2 is tight for a denoiser that does not read the time; and nearly so where tokens depend on each other."""
    singles = [small_joint(1, 3, seed=s) for s in (1, 2)]
    process = by_token(np.multiply.outer(*singles))
    model = Perfect(process, "posterior", reads_time=False)
    values_S = value_of(bound_for(process, "p2", tilt=True), model, process)
    assert values_S @ process.p_S == pytest.approx(process.entropy, abs=2e-6)
    process = by_token(small_joint(2, 3, seed=2))
    model = Perfect(process, "posterior", reads_time=False)
    gaps = [
        float(value_of(bound_for(process, "p2", tilt), model, process) @ process.p_S - process.entropy)
        for tilt in (True, False)
    ]
    assert 0 < gaps[0] < gaps[1] / 3


@pytest.mark.parametrize(("length", "vocabulary"), [(2, 2), (2, 3), (3, 2)])
def test_p3_with_the_best_rates_is_above_the_entropy(small_joint, length, vocabulary):
    process = by_context(small_joint(length, vocabulary, seed=3))
    values_S = value_of(bound_for(process, "p3"), Perfect(process, "reveal"), process)
    assert process.entropy < values_S @ process.p_S < 1.2 * process.entropy + 0.1
    assert values_S @ process.p_S - process.entropy > 1e-3  # not tight: when a token was revealed tells of the others


@pytest.mark.parametrize("schedules", [by_token, by_place], ids=["by token", "by place"])
def test_p3_with_the_best_rates_is_the_entropy_where_schedules_do_not_see_the_context(small_joint, schedules):
    process = schedules(small_joint(2, 3, seed=3))
    values_S = value_of(bound_for(process, "p3"), Perfect(process, "reveal"), process)
    assert values_S @ process.p_S == pytest.approx(process.entropy, abs=2e-6)


@pytest.mark.parametrize("form", ["p2", "p3"])
def test_p2_and_p3_stay_above_the_entropy_for_a_denoiser_made_for_p0(small_joint, form):
    joint = small_joint(2, 3, seed=5)
    process = by_token(joint) if form == "p2" else by_context(joint)
    bound = bound_for(process, form)
    bound.rate_head = lambda hidden_ND, t_N: torch.ones_like(t_N)  # the rate of P0

    class ForP0(Perfect):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.hidden_states = (torch.zeros(*kwargs["input_ids"].shape, 1),)
            return output

    values_S = value_of(bound, ForP0(process, "posterior", reads_time=False), process)
    assert values_S @ process.p_S > process.entropy + 1e-3


@pytest.mark.parametrize("form", ["p2", "p3"])
def test_cross_entropy_alone_at_its_own_best_is_below_the_entropy(small_joint, form, monkeypatch):
    """What makes the corrections necessary: without them the number is no bound."""
    process = by_token(small_joint(2, 3, seed=2)) if form == "p2" else by_context(small_joint(2, 3, seed=3))
    none = staticmethod(lambda *given: torch.zeros(len(given[-1])))
    monkeypatch.setattr(ChosenSchedules, "token_value_correction", none)
    monkeypatch.setattr("hf_difflm.objectives.adaptive.bound.contextual_correction", none.__func__)
    values_S = value_of(bound_for(process, form), Perfect(process, "reveal"), process)
    assert values_S @ process.p_S < process.entropy - 1e-3


@pytest.mark.parametrize("form", ["p1", "p2", "p3"])
def test_the_estimate_from_drawn_masks_agrees_with_the_enumeration(small_joint, form):
    """The masks as they are really drawn, given that something is masked, against every mask at its plain probability."""
    joint = small_joint(3, 2, seed=6)
    process = {"p1": by_place, "p2": by_token, "p3": by_context}[form](joint)
    model = Perfect(process, "posterior" if form != "p3" else "reveal", reads_time=form != "p1")
    truth = value_of(bound_for(process, form), model, process)[5]
    size, replicates = 256, 12
    ids = torch.from_numpy(process.sequences_SL[[5] * size])
    batch = {"input_ids": ids, "labels": ids}
    bound = bound_for(process, form)
    means = []
    with torch.no_grad():
        for step in range(replicates):
            output = bound(model, batch, NoiseKey(7, step, np.arange(size), size), 1)
            means.append(output.token_weights_N @ output.token_nll_N.double().numpy() / size)
    stderr = np.std(means, ddof=1) / replicates**0.5
    assert abs(np.mean(means) - truth) < 4 * stderr
    assert stderr < 0.05 * truth
