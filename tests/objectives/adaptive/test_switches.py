"""Each switch of the adaptive objective does what it says, in the masks, the weights, the evaluation and the log."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from adaptive_cases import FORMS, MASK, V, every_form, gradients, key_of, made, scored

from hf_difflm.data import Collator
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.objectives import AdaptiveSettings, MaskedDiffusionObjective, NoiseKey, adaptive_objective, count_tokens
from hf_difflm.objectives.adaptive.names import IMPORTANCES, MASKINGS


@pytest.fixture
def batch(tokenizer, train_rows):
    return Collator(tokenizer)(train_rows(8, ragged=True, prompts=True))


# ---- each switch changes the forward process ----


def masking_rates(model, objective, batch, progress: float = 0.0, draws: int = 40) -> np.ndarray:
    """(B, L) how often each token is hidden, seen from what reaches the model."""
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    with torch.no_grad():
        for draw in range(draws):
            key = NoiseKey(draw, round(100 * progress), np.arange(len(batch["input_ids"])), len(batch["input_ids"]))
            objective(model, batch, key, 1)
    hook.remove()
    return (torch.stack(seen) == MASK).double().mean(0).numpy()


@pytest.mark.parametrize(
    "importance", ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in ("learned_only", "frequency_only"))]
)
def test_each_masking_hides_important_tokens_more_or_less_often_as_it_says(tiny_denoiser, train_rows, importance):
    model = tiny_denoiser()
    rows = [{"input_ids": [256, *([97] * 9 + [98] * 3) * 2]} for _ in range(48)]
    ids = torch.tensor([row["input_ids"] for row in rows])
    batch = {"input_ids": ids, "labels": ids.masked_fill(ids == 256, -100)}
    counts = count_tokens(rows, V)

    def rate_gap(masking: str, progress: float = 0.0, **others) -> float:
        settings = AdaptiveSettings(importance, masking, **others)
        objective = adaptive_objective(model.config, MaskedDiffusionObjective(MASK), settings, counts)
        objective.begin(100)
        if objective.networks is not None:  # the estimator has learned that 98 is hard
            direction = model.get_input_embeddings().weight[98] - model.get_input_embeddings().weight[97]
            objective.reader.estimator.forward = lambda x, mask=None: torch.sigmoid(
                8 * ((x - model.get_input_embeddings().weight[97]) @ direction / (direction @ direction) - 0.5)
            ).detach()
        rates = masking_rates(model, objective, batch, progress)
        assert rates[:, 0].max() == 0  # context is never hidden
        assert rates[:, 1:].mean() == pytest.approx(0.5, abs=0.07)
        return float(rates[ids.numpy() == 98].mean() - rates[ids.numpy() == 97].mean())

    assert rate_gap("proportional") > 0.15
    assert rate_gap("inverse") < -0.15
    assert abs(rate_gap("time_only")) < 0.03
    assert abs(rate_gap("none")) < 0.03
    assert rate_gap("balanced", 0.0) < -0.15
    assert abs(rate_gap("balanced", 0.5)) < 0.03
    assert rate_gap("balanced", 1.0) > 0.15
    assert 0.03 < rate_gap("proportional", temperature=4.0) < rate_gap("proportional") - 0.05


def test_position_bias_hides_later_tokens_more_often(tiny_denoiser, train_rows):
    model = tiny_denoiser()
    ids = torch.full((48, 16), 97)
    batch = {"input_ids": ids, "labels": ids}
    for bias, sign in ((1.2, 1), (-1.2, -1)):
        for importance in ("none", "frequency_only", "learned_only"):
            settings = AdaptiveSettings(importance, position_bias=bias)
            rates_L = masking_rates(model, made(model, settings, train_rows, spoken=False), batch).mean(0)
            assert sign * (rates_L[8:].mean() - rates_L[:8].mean()) > 0.15


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("masking", MASKINGS)
def test_every_combination_has_its_bound_and_trains(tiny_denoiser, batch, train_rows, importance, masking):
    model = tiny_denoiser()
    objective = made(model, AdaptiveSettings(importance, masking), train_rows)
    loss, grads = gradients(model, objective, batch)
    assert loss.isfinite()
    assert all(g is not None and g.isfinite().all() for g in grads)
    adaptive = importance != "none" and masking not in ("time_only", "none")
    expected = None if not adaptive else "p2" if importance == "frequency_only" else "p3"
    assert objective.train_objective == expected
    native = objective.native(step=50)
    names = {None: None, "p2": "nelbo_token_value", "p3": "nelbo_contextual"}
    assert (None if native is None else native.bound) == names[expected]


# ---- evaluation ----


@every_form
def test_evaluation_is_p0_and_the_native_bound_stands_beside_it(tiny_denoiser, batch, train_rows, settings):
    model = tiny_denoiser()
    objective = made(model, settings, train_rows)
    assert objective.bound == "nelbo"
    headline = objective.for_evaluation()
    assert isinstance(headline, MaskedDiffusionObjective)
    assert headline.bound == "nelbo"
    native = objective.native(step=30)
    if settings.form == "p0":
        assert native is None
        return
    batches = [batch | {"index": torch.arange(8)}]
    found = [evaluate_likelihood(model, o, batches, 8, replicates=3) for o in (native, native, headline)]
    assert found[0].nll == found[1].nll
    assert found[0].bound.startswith("nelbo_")
    assert math.isfinite(found[0].nll)
    assert found[0].scored_tokens == found[2].scored_tokens
    # An untrained model knows nothing about anything: both are near log V, under its own process and under P0.
    assert found[0].nll == pytest.approx(found[2].nll, rel=0.3)
    assert not any(p.grad is not None for p in model.parameters())


def test_the_native_bound_of_balanced_masking_is_that_of_the_step(tiny_denoiser, batch, train_rows):
    model = tiny_denoiser()
    objective = made(model, AdaptiveSettings("frequency_only", "balanced"), train_rows)
    key = NoiseKey(0, 0, np.arange(8), 8, "eval")
    with torch.no_grad():
        found = [float(objective.native(step)(model, batch, key, 1).loss) for step in (0, 50, 50, 100)]
    assert found[1] == found[2]
    assert len(set(found)) == 3


def test_what_changes_with_training_must_know_how_long_it_is(tiny_denoiser, batch, train_rows):
    model = tiny_denoiser()
    for settings in (AdaptiveSettings("full", "balanced"), AdaptiveSettings("full", curriculum="thirds")):
        with pytest.raises(ValueError, match="begin"):
            made(model, settings, train_rows, steps=None)(model, batch, key_of(batch), 1)


@pytest.mark.parametrize("name", ["p1", "p2", "p3"])
def test_a_model_that_reads_the_time_is_told_it(tiny_denoiser, batch, train_rows, name):
    model = tiny_denoiser()
    objective = made(model, FORMS[name], train_rows)
    told = []

    def note(module, args, kwargs):
        told.append(kwargs.pop("times", None))
        return args, kwargs

    model.register_forward_pre_hook(note, with_kwargs=True)
    objective(model, batch, key_of(batch), 1)
    model.config.time_conditioned = True
    output = objective(model, batch, key_of(batch), 1)
    assert told[0] is None
    np.testing.assert_allclose(-np.log1p(-told[1].double().numpy()), output.row_metrics["noise_level"], rtol=1e-4)


# ---- the curriculum ----


@pytest.mark.parametrize("name", ["p0", "p2", "p3"])
def test_the_curriculum_weighs_the_loss_and_ends_at_the_true_objective(tiny_denoiser, batch, train_rows, name):
    model = tiny_denoiser()
    plain = FORMS[name]
    weighed = AdaptiveSettings(plain.importance, plain.masking, curriculum="thirds")
    one, other = made(model, plain, train_rows), made(model, weighed, train_rows)
    assert other.train_objective == f"{name}+curriculum"
    loss, grads = gradients(model, one, batch, step=67)
    other_loss, other_grads = gradients(model, other, batch, step=67)
    assert torch.equal(loss, other_loss)
    assert all(torch.equal(a, b) for a, b in zip(grads, other_grads, strict=True))
    early = [gradients(model, o, batch, step=5)[0] for o in (one, other)]
    assert early[0] != early[1]
    stages = []
    for step in (0, 40, 80):
        output = other(model, batch, key_of(batch, step), scored(batch))
        stages.append(output.summary.metrics(output.summary.numbers())["curriculum_stage"])
    assert stages == [1, 2, 3]


def test_the_weighed_loss_of_p0_is_p0_times_the_weights_of_the_tokens(tiny_denoiser, batch, train_rows):
    model = tiny_denoiser()
    objective = made(model, AdaptiveSettings("frequency_only", "time_only", curriculum="thirds"), train_rows)
    output = objective(model, batch, key_of(batch), scored(batch))
    p0 = MaskedDiffusionObjective(MASK)(model, batch, key_of(batch), scored(batch))
    np.testing.assert_array_equal(output.rows_N, p0.rows_N)
    np.testing.assert_array_equal(output.token_weights_N, p0.token_weights_N)
    importance = objective.reader.prior_V[batch["input_ids"].numpy()]
    weights = objective.curriculum.weights(importance, (batch["labels"] != -100).numpy(), 0.0)
    costs = p0.token_weights_N * p0.token_nll_N.double().numpy() * weights[p0.rows_N, p0.columns_N]
    assert float(output.loss.detach()) == pytest.approx(costs.sum() / scored(batch), rel=1e-5)


# ---- what is logged ----


def test_the_log_says_of_importance_what_numpy_says(tiny_denoiser, batch, train_rows):
    model = tiny_denoiser()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(20):  # before, all is as hard as can be
        gradients(model, MaskedDiffusionObjective(MASK), batch, step)
        optimiser.step()
    objective = made(model, AdaptiveSettings("full", "time_only"), train_rows)
    output = objective(model, batch, key_of(batch), scored(batch))
    found = output.summary.metrics(output.summary.numbers())
    importance = objective.reader(model, batch, "cpu")
    values = importance.values_BL[(batch["labels"] != -100).numpy()]
    hidden = importance.values_BL[output.rows_N, output.columns_N]
    hard = (output.token_nll_N.double().numpy() / math.log(V)).clip(0, 1)
    learned = importance.learned_BL.detach().double().numpy()[output.rows_N, output.columns_N]
    per_row = np.bincount(output.rows_N)[output.rows_N]
    counts = (batch["labels"] != -100).sum(-1).numpy()[output.rows_N]
    assert found == pytest.approx(
        {
            "importance_mean": values.mean(),
            "importance_std": values.std(),
            "importance_min": values.min(),
            "importance_max": values.max(),
            "importance_difficulty_correlation": np.corrcoef(hidden, hard)[0, 1],
            "importance_loss": np.average((learned - hard) ** 2, weights=counts / per_row),
        },
        rel=1e-3,
    )


def test_an_importance_that_is_the_same_everywhere_goes_with_nothing(tiny_denoiser, batch, train_rows):
    model = tiny_denoiser()
    objective = made(model, AdaptiveSettings("learned_only"), train_rows, spoken=False)
    output = objective(model, batch, key_of(batch), 1)
    found = output.summary.metrics(output.summary.numbers())
    assert "importance_difficulty_correlation" not in found
    assert (found["importance_mean"], found["importance_std"]) == (0.5, 0.0)
