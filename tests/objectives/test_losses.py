"""The loss of a batch: constants, empty rows, padding, the causal twin, and what is reported beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_difflm.data import Collator
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import CausalObjective, MaskedDiffusionObjective, NoiseKey

MASK = 259
FORMS = {
    "any_order": MaskedDiffusionObjective(MASK),
    "time": MaskedDiffusionObjective(MASK, "time", schedule=NoiseSchedule("cosine")),
}
every_form = pytest.mark.parametrize("objective", FORMS.values(), ids=FORMS.keys())


def key_of(batch, step: int = 0) -> NoiseKey:
    size = len(batch["input_ids"])
    return NoiseKey(0, step, np.arange(size), size)


def scored(batch) -> int:
    return int((batch["labels"] != -100).sum())


def constant(model):
    """The same model with equal logits everywhere."""
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    return model


def test_constant_logits_cost_exactly_the_log_of_the_vocabulary_without_the_mask(tiny_denoiser, tokenizer, train_rows):
    model = constant(tiny_denoiser(tie_word_embeddings=False))
    batch = Collator(tokenizer)(train_rows(8, ragged=True, prompts=True))
    for step in range(20):
        output = FORMS["any_order"](model, batch, key_of(batch, step), scored(batch))
        assert float(output.loss.detach()) == pytest.approx(math.log(259), rel=1e-6)


def test_constant_logits_cost_the_log_of_the_vocabulary_in_the_mean_of_the_time_form(tiny_denoiser):
    """Each token is counted once: the weights of the masked tokens add up to the scored tokens, in the mean."""
    model = constant(tiny_denoiser(tie_word_embeddings=False))
    batch = {"input_ids": torch.zeros(256, 16, dtype=torch.long), "labels": torch.zeros(256, 16, dtype=torch.long)}
    for schedule in ("loglinear", "cosine", "polynomial", "geometric"):
        objective = MaskedDiffusionObjective(MASK, "time", schedule=NoiseSchedule(schedule))
        with torch.no_grad():
            losses = [float(objective(model, batch, key_of(batch, step), 256 * 16).loss) for step in range(30)]
        stderr = np.std(losses, ddof=1) / math.sqrt(30)
        assert stderr < 0.1
        assert abs(np.mean(losses) - math.log(259)) < 3.5 * stderr, schedule


def test_constant_logits_of_the_causal_twin_cost_the_log_of_its_vocabulary(tiny_causal, tokenizer, train_rows):
    model = constant(tiny_causal())
    batch = Collator(tokenizer)(train_rows(8, ragged=True))
    loss = CausalObjective()(model, batch, key_of(batch), scored(batch)).loss
    assert float(loss.detach()) == pytest.approx(math.log(260), rel=1e-6)


@pytest.mark.parametrize("objective", [*FORMS.values(), CausalObjective()], ids=[*FORMS, "ar"])
def test_a_batch_without_scored_tokens_costs_nothing_and_can_go_backward(objective, tiny_denoiser, tiny_causal):
    model = tiny_causal() if objective.name == "ar" else tiny_denoiser()
    batch = {"input_ids": torch.full((2, 5), 97), "labels": torch.full((2, 5), -100)}
    output = objective(model, batch, key_of(batch), 1, accuracy=True)
    output.loss.backward()
    assert float(output.loss.detach()) == 0.0
    assert len(output.token_nll_N) == len(output.rows_N) == 0
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and not g.any() for g in gradients)


def test_a_time_so_early_that_nothing_is_masked_costs_nothing_and_can_go_backward(tiny_denoiser):
    class Early(MaskedDiffusionObjective):
        def corrupt(self, scored_BL, key):
            return self._bernoulli(np.full(len(scored_BL), 1 - 1e-9), np.full(scored_BL.shape, 0.5), scored_BL.sum(-1))

    model = tiny_denoiser()
    batch = {"input_ids": torch.full((2, 5), 97), "labels": torch.full((2, 5), 97)}
    output = Early(MASK, "time")(model, batch, key_of(batch), 10)
    output.loss.backward()
    assert float(output.loss.detach()) == 0.0
    assert output.row_metrics["masking_rate"].tolist() == [0, 0]


def test_one_row_without_scored_tokens_leaves_the_others_as_they_are(tiny_denoiser):
    model = tiny_denoiser().eval()
    ids = torch.arange(97, 107).reshape(2, 5)
    labels = ids.clone()
    batch = {"input_ids": ids, "labels": labels}
    labels[1] = -100
    both = FORMS["any_order"](model, batch, key_of(batch), 5)
    first = {name: value[:1] for name, value in batch.items()}
    alone = FORMS["any_order"](model, first, NoiseKey(0, 0, np.arange(1), 2), 5)
    assert float(both.loss) == pytest.approx(float(alone.loss), rel=1e-6)


@pytest.mark.parametrize("pad_is_eos", [False, True], ids=["pad", "pad-is-eos"])
@pytest.mark.parametrize("objective", [*FORMS.values(), CausalObjective()], ids=[*FORMS, "ar"])
def test_padding_on_either_side_with_any_pad_token_gives_the_same_number(
    objective, pad_is_eos, tiny_denoiser, tiny_causal, tokenizer, train_rows
):
    model = (tiny_causal() if objective.name == "ar" else tiny_denoiser()).eval()
    rows = train_rows(6, ragged=True)
    for row in rows:
        row["input_ids"][-1] = tokenizer.eos_token_id  # a scored token
    key = NoiseKey(0, 1, np.arange(6), 6)
    total = sum(len(row["input_ids"]) - 1 for row in rows)
    collator = Collator(tokenizer)
    # Each row by itself is never padded.
    alone = [objective(model, collator([row]), NoiseKey(0, 1, np.array([i]), 6), total) for i, row in enumerate(rows)]
    expected = sum(float(output.loss.detach()) for output in alone)
    expected_nll = torch.cat([output.token_nll_N for output in alone])
    for side in ("left", "right"):
        collator = Collator(tokenizer, padding_side=side)
        if pad_is_eos:
            collator.pad_token_id = tokenizer.eos_token_id
        output = objective(model, collator(rows), key, total)
        assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5), side
        torch.testing.assert_close(output.token_nll_N, expected_nll, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", [*FORMS.values(), CausalObjective()], ids=[*FORMS, "ar"])
def test_the_loss_is_the_weighted_sum_of_what_is_reported_of_the_tokens(
    objective, tiny_denoiser, tiny_causal, tokenizer, train_rows
):
    model = tiny_causal() if objective.name == "ar" else tiny_denoiser()
    batch = Collator(tokenizer)(train_rows(6, ragged=True, prompts=True))
    output = objective(model, batch, key_of(batch), scored(batch), accuracy=True)
    weighted = output.token_weights_N @ output.token_nll_N.double().numpy() / scored(batch)
    assert float(output.loss.detach()) == pytest.approx(weighted, rel=1e-5)
    assert (batch["labels"].numpy()[output.rows_N, output.columns_N] != -100).all()
    assert len(output.token_correct_N) == len(output.rows_N)
    assert all(len(values) == 6 for values in output.row_metrics.values())


def test_a_context_token_is_never_masked_and_prompts_do_not_count(tiny_denoiser, tokenizer, train_rows):
    seen = []
    model = tiny_denoiser()
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    batch = Collator(tokenizer)(train_rows(16, prompts=True))
    for step in range(10):
        FORMS["any_order"](model, batch, key_of(batch, step), 1)
    masked = torch.stack(seen) == MASK
    assert not (masked & (batch["labels"] == -100)).any()
    assert (masked.any(0) | (batch["labels"] == -100)).float().mean() > 0.95


def test_the_causal_loss_is_that_of_transformers(tiny_causal, tokenizer, train_rows):
    model = tiny_causal().eval()
    batch = Collator(tokenizer)(train_rows(6, ragged=True, prompts=True))
    output = CausalObjective()(model, batch, key_of(batch), scored(batch), accuracy=True)
    theirs = model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"])
    assert float(output.loss.detach()) == pytest.approx(float(theirs.loss), rel=1e-5)
    logits = theirs.logits[output.rows_N, output.columns_N - 1]
    labels = batch["labels"][output.rows_N, output.columns_N]
    torch.testing.assert_close(output.token_nll_N, F.cross_entropy(logits, labels, reduction="none").detach())
    assert torch.equal(output.token_correct_N, logits.argmax(-1) == labels)


def test_both_objectives_score_the_same_tokens(tiny_denoiser, tiny_causal, tokenizer, train_rows):
    """Over all draws the denoiser is asked for exactly the tokens the causal model is asked for once."""
    batch = Collator(tokenizer)(train_rows(4, ragged=True, prompts=True))
    causal = CausalObjective()(tiny_causal(), batch, key_of(batch), 1)
    asked = set()
    for step in range(60):
        output = FORMS["any_order"](tiny_denoiser(), batch, key_of(batch, step), 1)
        asked |= set(zip(output.rows_N.tolist(), output.columns_N.tolist(), strict=True))
    assert asked == set(zip(causal.rows_N.tolist(), causal.columns_N.tolist(), strict=True))


def test_a_causal_model_refuses_to_score_a_token_without_context(tiny_causal, tokenizer):
    rows = [{"input_ids": [97, 98, 99]}, {"input_ids": [256, 98, 99, 100]}]
    for side in ("right", "left"):
        batch = Collator(tokenizer, padding_side=side)(rows)
        with pytest.raises(ValueError, match="first position"):
            CausalObjective()(tiny_causal(), batch, key_of(batch), 5)


@pytest.mark.parametrize(("wrong", "said"), [({"loss_form": "ddpm"}, "ddpm"), ({"noise_sampling": "sobol"}, "sobol")])
def test_an_unknown_form_or_sampling_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        MaskedDiffusionObjective(9, **wrong)


def test_evaluation_is_the_exact_count_form_however_training_went():
    evaluated = MaskedDiffusionObjective(9, "time", "iid", NoiseSchedule("cosine")).for_evaluation()
    assert (evaluated.loss_form, evaluated.count_law.name, evaluated.mask_token_id) == ("any_order", "importance", 9)
    assert CausalObjective().for_evaluation().bound == "exact"


def test_a_single_draw_is_of_uniform_counts():
    """Its weights could not be told from what sequences of unequal lengths cost."""
    p0 = MaskedDiffusionObjective(9)
    assert p0.for_evaluation(replicates=1).count_law.name == "uniform"
    assert p0.for_evaluation(replicates=2).count_law.name == "importance"
    assert p0.for_evaluation(pairs=True, replicates=1).noise_sampling == "pairs"
