"""Training finds what theory says is the optimum: conditionals, the posterior of P2, the best rates of P3."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_process import Process

from hf_difflm.evaluation.audit.built_in import built_in
from hf_difflm.evaluation.audit.examination import sources
from hf_difflm.evaluation.audit.masks import time_nodes
from hf_difflm.evaluation.audit.optimum import train
from hf_difflm.evaluation.audit.subjects import NODES, Size, random_tables
from hf_difflm.evaluation.audit.tabular import all_sequences, exact_conditionals

SIZE = Size(2, 3, denoisers=2)


def trained(name: str, size: Size = SIZE):
    subject = built_in(name, size)
    model = random_tables(size, subject)
    joints_DS = np.random.default_rng(3).dirichlet([0.7] * size.sequences, size.denoisers) + 1e-3
    joints_DS /= joints_DS.sum(-1, keepdims=True)
    gain = train(subject.training, model, joints_DS, subject.rate_head)
    assert gain < 1e-9
    shape = (size.vocabulary,) * size.length
    return subject, model.log_probabilities().exp().numpy(), [joint.reshape(shape) for joint in joints_DS]


def masked_places(size: Size = SIZE) -> np.ndarray:
    """(Z, L) bool."""
    return all_sequences(size.length, size.vocabulary + 1) == size.vocabulary


@pytest.mark.parametrize("name", ["p0", "p0_time", "pairs", "importance", "p1", "sum_over_masked", "sum_over_scored"])
def test_the_optimum_of_a_cross_entropy_is_the_conditionals_whatever_its_weights(name):
    _, mu_D1ZLV, joints = trained(name)
    for mu_1ZLV, joint in zip(mu_D1ZLV, joints, strict=True):
        right_ZLV = exact_conditionals(joint).reshape(mu_1ZLV[0].shape)
        np.testing.assert_allclose(mu_1ZLV[0][masked_places()], right_ZLV[masked_places()], atol=1e-6)


def test_a_causal_model_learns_the_conditionals_from_the_left():
    _, mu_D1ZLV, joints = trained("ar")
    right_ZLV = exact_conditionals(joints[0]).reshape(mu_D1ZLV[0, 0].shape)
    for state, sequence in enumerate(all_sequences(3, 3)):
        masked = sequence == 2
        if masked.any() and masked[masked.argmax() :].all():
            place = masked.argmax()
            np.testing.assert_allclose(mu_D1ZLV[0, 0, state, place], right_ZLV[state, place], atol=1e-5)


@pytest.mark.parametrize("name", ["p2", "p2_uncorrected"])
def test_the_optimum_of_p2_is_the_posterior_and_of_its_cross_entropy_alone_it_is_not(name):
    size = Size(2, 2, denoisers=2)
    subject, mu_DTZLV, joints = trained(name, size)
    r_V = subject.training.objective.reader.token_value_r(1.0)
    process = Process(joints[1], r_V[all_sequences(2, 2)])
    for node, t in enumerate(time_nodes(NODES)[0]):
        for state, z_L in enumerate(all_sequences(2, 3)):
            masked_L = z_L == 2
            right = process.posterior(tuple(z_L), t) if name == "p2" else process.reveal(tuple(z_L), t)[0]
            np.testing.assert_allclose(mu_DTZLV[1, node, state][masked_L], right[masked_L], atol=2e-5)


def test_the_optimum_of_p3_is_the_best_rate():
    size = Size(2, 2, denoisers=2)
    subject, mu_DTZLV, joints = trained("p3", size)
    process = Process(joints[1], subject.training.objective.r_SL)
    s_hat_TZL = subject.rate_head.scores_X.detach().exp().numpy().reshape(mu_DTZLV.shape[:-1])[1]
    for node, t in enumerate(time_nodes(NODES)[0]):
        for state, z_L in enumerate(all_sequences(2, 3)):
            masked_L = z_L == 2
            mu_LV, rate_L = process.reveal(tuple(z_L), t)
            np.testing.assert_allclose(mu_DTZLV[1, node, state][masked_L], mu_LV[masked_L], atol=2e-5)
            np.testing.assert_allclose(1 / (t * s_hat_TZL[node, state][masked_L]), rate_L[masked_L], rtol=1e-4)


def test_gradients_are_weighed_and_values_are_not():
    subject = built_in("p0", SIZE)
    model = random_tables(SIZE, subject)
    before = subject.training.values(model)
    sources_DS = sources(SIZE)
    subject.training.backward(model, sources_DS)
    found = model.logits_DTZLV.grad.clone()
    np.testing.assert_array_equal(subject.training.values(model), before)
    # The same by differences of the mean over the source.
    step, place = 1e-5, (1, 0, 8, 0, 1)
    sums = []
    for sign in (1, -1):
        with torch.no_grad():
            model.logits_DTZLV[place] += sign * step
        sums.append((subject.training.values(model)[0] * sources_DS).sum())
        with torch.no_grad():
            model.logits_DTZLV[place] -= sign * step
    assert float(found[place]) == pytest.approx((sums[0] - sums[1]) / 2 / step, rel=1e-5)
