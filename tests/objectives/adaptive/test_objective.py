"""The adaptive objective: MDLM where nothing is adaptive, no gradient where none belongs, masks that follow importance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from adaptive_cases import FORMS, MASK, V, every_form, gradients, key_of, made, scored

from hf_difflm.data import Collator
from hf_difflm.objectives import AdaptiveSettings, MaskedDiffusionObjective, NoiseKey, adaptive_objective
from hf_difflm.objectives.adaptive.names import MASKINGS


@pytest.fixture
def batch(tokenizer, train_rows):
    return Collator(tokenizer)(train_rows(8, ragged=True, prompts=True))


# ---- what it leaves alone ----


@pytest.mark.parametrize("form", ["any_order", "time"])
@pytest.mark.parametrize("settings", [AdaptiveSettings("none", masking) for masking in MASKINGS], ids=MASKINGS)
def test_without_importance_it_is_mdlm_bit_for_bit(tiny_denoiser, batch, train_rows, settings, form):
    model = tiny_denoiser()
    p0 = MaskedDiffusionObjective(MASK, form)
    objective = made(model, settings, train_rows, steps=None, loss_form=form)
    assert objective.networks is None
    assert objective.train_objective is None
    for step in range(3):
        loss, grads = gradients(model, p0, batch, step)
        other_loss, other_grads = gradients(model, objective, batch, step)
        assert torch.equal(loss, other_loss)
        assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))
    one, other = (o(model, batch, key_of(batch), 7, accuracy=True) for o in (p0, objective))
    np.testing.assert_array_equal(one.token_weights_N, other.token_weights_N)
    assert torch.equal(one.token_correct_N, other.token_correct_N)


@pytest.mark.parametrize("importance", ["full", "learned_only", "frequency_only"])
def test_an_estimator_that_only_watches_leaves_loss_and_gradient_of_the_denoiser_bit_equal(
    tiny_denoiser, batch, train_rows, importance
):
    model = tiny_denoiser()
    objective = made(model, AdaptiveSettings(importance, "time_only", loss_weight=10.0), train_rows)
    for step in range(3):
        loss, grads = gradients(model, MaskedDiffusionObjective(MASK), batch, step)
        other_loss, other_grads = gradients(model, objective, batch, step)
        assert torch.equal(loss, other_loss)
        assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))
    if importance != "frequency_only":
        assert all(p.grad.abs().sum() > 0 for p in objective.networks.parameters())


def test_what_the_estimator_and_the_rate_head_learn_does_not_reach_the_denoiser(tiny_denoiser, batch, train_rows):
    """Same masks, other weights of the regression and another rate head: the same gradient, bit for bit."""
    model = tiny_denoiser()
    plain = made(model, AdaptiveSettings("full", loss_weight=0.0), train_rows)
    eager = made(model, AdaptiveSettings("full", loss_weight=5.0), train_rows)
    torch.nn.init.normal_(eager.networks["rate"].score.weight, std=3.0)
    one_loss, one = gradients(model, plain, batch)
    other_loss, other = gradients(model, eager, batch)
    assert one_loss != other_loss  # the rates are part of the bound
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    sums = {
        name: [sum(float(p.grad.abs().sum()) for p in o.networks[name].parameters()) for o in (plain, eager)]
        for name in ("importance", "rate")
    }
    assert sums["importance"][0] == 0  # masking sends no gradient into the estimator
    assert min(sums["importance"][1], *sums["rate"]) > 0


def test_it_draws_nothing_from_the_global_generators(tiny_denoiser, batch, train_rows):
    model = tiny_denoiser()
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    made(model, AdaptiveSettings("full"), train_rows, spoken=False)(model, batch, key_of(batch), 1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


# ---- the loss of a batch ----


@every_form
def test_the_loss_is_the_weighted_sum_of_what_is_reported_of_the_tokens(tiny_denoiser, batch, train_rows, settings):
    model = tiny_denoiser()
    output = made(model, settings, train_rows)(model, batch, key_of(batch), scored(batch), accuracy=True)
    weighted = output.token_weights_N @ output.token_nll_N.double().numpy() / scored(batch)
    assert float(output.loss.detach()) == pytest.approx(weighted, rel=1e-5)
    assert (batch["labels"].numpy()[output.rows_N, output.columns_N] != -100).all()
    assert len(output.token_correct_N) == len(output.rows_N)
    assert all(len(values) == 8 for values in output.row_metrics.values())


@every_form
def test_any_cut_of_the_batch_gives_the_same_loss_and_gradients(tiny_denoiser, batch, train_rows, settings):
    model = tiny_denoiser()
    objective = made(model, settings, train_rows)
    model.zero_grad()
    whole = objective(model, batch, key_of(batch), scored(batch))
    whole.loss.backward()
    trained = [*model.parameters(), *([] if objective.networks is None else objective.networks.parameters())]
    expected = [p.grad.clone() for p in trained]
    for p in trained:
        p.grad = None
    parts = []
    for piece in np.split(np.arange(8), [3, 4]):
        part = {name: value[piece] for name, value in batch.items()}
        parts.append(objective(model, part, NoiseKey(0, 0, piece, 8), scored(batch)))
        parts[-1].loss.backward()
    assert sum(float(o.loss.detach()) for o in parts) == pytest.approx(float(whole.loss.detach()), rel=1e-5)
    for p, gradient in zip(trained, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)
    if whole.summary is not None:
        merged = whole.summary.merged([o.summary.numbers() for o in parts])
        one, many = whole.summary.metrics(whole.summary.numbers()), whole.summary.metrics(merged)
        assert one == pytest.approx(many, rel=1e-3, abs=1e-5)


@every_form
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_gives_the_same_number(tiny_denoiser, tokenizer, train_rows, settings, side):
    model = tiny_denoiser().eval()
    rows = train_rows(6, ragged=True)
    objective = made(model, settings, train_rows)
    collator = Collator(tokenizer)
    with torch.no_grad():
        alone = [
            float(objective(model, collator([row]), NoiseKey(0, 1, np.array([i]), 6), 10).loss)
            for i, row in enumerate(rows)
        ]
        together = objective(model, Collator(tokenizer, padding_side=side)(rows), NoiseKey(0, 1, np.arange(6), 6), 10)
    assert float(together.loss) == pytest.approx(sum(alone), rel=1e-4)


@every_form
def test_a_batch_without_scored_tokens_costs_nothing_and_can_go_backward(tiny_denoiser, train_rows, settings):
    model = tiny_denoiser()
    batch = {"input_ids": torch.full((2, 5), 97), "labels": torch.full((2, 5), -100)}
    output = made(model, settings, train_rows)(model, batch, key_of(batch), 1, accuracy=True)
    output.loss.backward()
    assert float(output.loss.detach()) == 0.0
    assert len(output.token_nll_N) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", ["p1", "p2", "p3"])
def test_a_denoiser_that_knows_nothing_costs_the_log_of_the_vocabulary_and_what_the_rates_cost(
    tiny_denoiser, train_rows, name
):
    """Each token is counted once under every schedule; with all r alike the corrections cost nothing."""
    model = tiny_denoiser(tie_word_embeddings=False)
    torch.nn.init.zeros_(model.lm_head.weight)
    batch = {"input_ids": torch.full((256, 16), 99), "labels": torch.full((256, 16), 99)}
    # An estimator that says 0.5 everywhere, and a frequency prior without counts, make every r 1.
    objective = adaptive_objective(model.config, MaskedDiffusionObjective(MASK), FORMS[name], np.zeros(V))
    with torch.no_grad():
        losses = [float(objective(model, batch, key_of(batch, step), 256 * 16).loss) for step in range(30)]
    stderr = np.std(losses, ddof=1) / math.sqrt(30)
    assert stderr < 0.05
    assert abs(np.mean(losses) - math.log(V - 1)) < 4 * stderr
