"""The law that is measured: second moments of the head's gradient, the same for any cut, kept over a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.objectives import CountLaw, MaskedDiffusionObjective, NoiseKey, gradient_moments
from hf_difflm.objectives.gradient_moments import GradientMoments

ROWS, LENGTH = 64, 12


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(gradient_moments, "_PERIOD", 2)
    monkeypatch.setattr(gradient_moments, "_DELAY", 1)


def batch_of(rows: slice, step: int) -> dict[str, torch.Tensor]:
    ids = torch.from_numpy(np.random.default_rng(step).integers(0, 7, (ROWS, LENGTH)))[rows]
    return {"input_ids": ids, "labels": ids}


def run(model, objective, steps: range, cut: int) -> None:
    for step in steps:
        for first in range(0, ROWS, cut):
            rows = slice(first, first + cut)
            key = NoiseKey(0, step, np.arange(ROWS)[rows], ROWS)
            objective(model, batch_of(rows, step), key, ROWS * LENGTH).loss.backward()
        objective.after_step(step + 1)


def optimal() -> MaskedDiffusionObjective:
    return MaskedDiffusionObjective(7, count_law=CountLaw("optimal"))


def test_moments_are_those_of_the_tokens_gradients(tiny_denoiser, quickly):
    """Against the gradient of each token's own cross-entropy, token by token."""
    model, objective = tiny_denoiser(vocab_size=8, seed=1).eval(), optimal()
    hidden = []
    model.lm_head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0].detach()))
    by_bin = [[] for _ in range(16)]
    for step in range(2):
        key = NoiseKey(0, step, np.arange(ROWS), ROWS)
        corruption = objective.corrupt(np.ones((ROWS, LENGTH), dtype=bool), key)
        objective(model, batch_of(slice(None), step), key, ROWS * LENGTH).loss.backward()
        objective.after_step(step + 1)
        rows_N, columns_N = np.nonzero(corruption.masked_BL)
        labels_N = batch_of(slice(None), step)["labels"][rows_N, columns_N]
        for one_D, label, row in zip(hidden[-1], labels_N, rows_N, strict=True):
            own_D = one_D.clone().requires_grad_()
            logits = (own_D @ model.lm_head.weight.detach().T).index_fill(0, torch.tensor([7]), float("-inf"))
            torch.nn.functional.cross_entropy(logits, label).backward()
            place = int(np.ceil(corruption.masking_rate_B[row] * 16)) - 1
            by_bin[place].append(float(own_D.grad.square().sum()))
    assert objective.count_law.moments == ()  # not yet
    run(model, objective, range(2, 3), ROWS)
    means = np.array([np.mean(found) if found else np.nan for found in by_bin])
    known = np.isfinite(means)
    measured = np.array(objective.count_law.moments)
    np.testing.assert_allclose(measured[known], means[known] / means[known].mean(), rtol=0.012)  # a 32nd of an octave
    assert (measured[~known] == 1).all()


@pytest.mark.parametrize("cut", [32, 8])
def test_the_law_is_the_same_for_any_cut(tiny_denoiser, quickly, cut):
    laws = []
    for each in (ROWS, cut):
        objective = optimal()
        run(tiny_denoiser(vocab_size=8, seed=1), objective, range(7), each)
        laws.append(objective.count_law)
    assert laws[0].moments
    assert laws[0] == laws[1]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_what_was_measured_is_kept_so_that_a_resumed_training_draws_as_if_it_had_not_stopped(
    tiny_denoiser, quickly, tmp_path, stop
):
    whole, first, second = optimal(), optimal(), optimal()
    run(tiny_denoiser(vocab_size=8, seed=1), whole, range(8), ROWS)
    run(tiny_denoiser(vocab_size=8, seed=1), first, range(stop), ROWS)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.count_law == first.count_law
    run(tiny_denoiser(vocab_size=8, seed=1), second, range(stop, 8), ROWS)
    assert second.count_law == whole.count_law


def test_measurements_are_smoothed_and_what_is_not_finite_is_passed_over(quickly):
    found = GradientMoments()
    found._take(np.stack([np.full(16, 3.0), np.full(16, 6.0)]))
    assert found.moments == (1.0,) * 16
    found._take(np.stack([np.array([3.0] * 8 + [1.0] * 8), np.ones(16)]))
    assert found.moments[0] == pytest.approx(1.25, rel=0.02)
    assert found.moments[-1] == pytest.approx(0.75, rel=0.02)
    before = found.moments
    found._take(np.stack([np.full(16, np.nan), np.ones(16)]))
    assert found.moments == before


def test_a_frozen_backbone_has_no_gradient_to_measure(tiny_denoiser):
    model, objective = tiny_denoiser(vocab_size=8, seed=1), optimal()
    model.backbone.requires_grad_(False)
    objective(model, batch_of(slice(None), 0), NoiseKey(0, 0, np.arange(ROWS), ROWS), ROWS * LENGTH)
    with pytest.raises(UserError, match="all that is trained comes after them"):
        objective.after_step(1)


def test_a_checkpoint_without_the_law_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        optimal().load(tmp_path)
