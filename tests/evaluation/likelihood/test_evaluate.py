"""The reported likelihood is right, its standard errors are honest, and the same weights give the same number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_difflm.data import Collator
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches
from hf_difflm.evaluation.likelihood.evaluate import NOISE_BINS, evaluate_likelihood
from hf_difflm.objectives import CausalObjective, CountLaw, MaskedDiffusionObjective

T_QUANTILE_7 = 2.3646  # 97.5 % of Student's t with 8 - 1 degrees of freedom


def whole_set(ids_SL: np.ndarray, **columns: np.ndarray):
    ids = torch.from_numpy(np.asarray(ids_SL))
    batch = {"input_ids": ids, "labels": ids, "index": torch.arange(len(ids))}
    return batch | {name: torch.from_numpy(np.asarray(values)) for name, values in columns.items()}


def score(model, objective, rows, collator, batch_size: int = 8, **settings):
    return evaluate_likelihood(model, objective, EvaluationBatches(rows, collator, batch_size), len(rows), **settings)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["uniform", "importance"])
def test_the_interval_of_the_standard_error_covers_the_truth_as_often_as_it_says(random_denoiser, small_joint, law):
    """K = 8 replicates and t-quantiles, 200 repeats: 95 % nominal; 0.90 is 3 standard errors of a proportion below."""
    model = random_denoiser(3, 3, seed=7)
    joint = small_joint(3, 3, seed=1)
    sequences = np.array(np.unravel_index(np.random.default_rng(0).choice(27, 16, p=joint.flatten()), (3, 3, 3))).T
    objective = MaskedDiffusionObjective(3, count_law=CountLaw(law))
    many = evaluate_likelihood(model, objective, [whole_set(np.tile(sequences, (8192, 1)))], 8192 * 16, replicates=8)
    truth = exact_nll(model, sequences)
    assert many.nll == pytest.approx(truth, abs=4 * many.nll_stderr)
    results = [
        evaluate_likelihood(model, objective, [whole_set(sequences)], 16, replicates=8, seed=seed)
        for seed in range(200)
    ]
    covered = np.mean([abs(r.nll - truth) <= T_QUANTILE_7 * r.nll_stderr for r in results])
    assert 0.90 <= covered <= 0.995
    # The same said of its size: the mean of the squared errors is that of the squared standard errors.
    ratio = np.mean([r.nll_stderr**2 for r in results]) / np.mean([(r.nll - truth) ** 2 for r in results])
    assert 0.7 < ratio < 1.4


def exact_nll(model, sequences_SL: np.ndarray) -> float:
    """Nats per token of the NELBO, from all masks of each sequence and the table of the denoiser."""
    table = model.scores.detach().numpy()
    length, mask = sequences_SL.shape[1], model.mask_token_id
    total = 0.0
    for sequence in sequences_SL:
        for code in range(1, 2**length):
            hidden = np.array([code >> i & 1 for i in range(length)], dtype=bool)
            seen = table[tuple(np.where(hidden, mask, sequence))]
            total -= seen[hidden, sequence[hidden]].sum() / (hidden.sum() * math.comb(length, hidden.sum()))
    return total / sequences_SL.size


def test_twice_is_bit_equal_and_leaves_the_generators_alone(tiny_denoiser, tokenizer, rows):
    model, collator = tiny_denoiser(), Collator(tokenizer)
    state = torch.get_rng_state()
    first = score(model, MaskedDiffusionObjective(259), rows, collator, replicates=3)
    second = score(model, MaskedDiffusionObjective(259), rows, collator, replicates=3)
    assert first.metrics() == second.metrics()
    np.testing.assert_array_equal(first.unit_nll, second.unit_nll)
    assert torch.equal(state, torch.get_rng_state())
    other = score(model, MaskedDiffusionObjective(259), rows, collator, replicates=3, seed=1)
    assert other.nll != first.nll
    assert abs(other.nll - first.nll) < 8 * first.nll_stderr + 1e-3


@pytest.mark.parametrize("objective", [MaskedDiffusionObjective(259), CausalObjective()], ids=["mdlm", "ar"])
def test_the_batch_size_and_the_side_of_the_padding_change_nothing(
    objective, tiny_denoiser, tiny_causal, tokenizer, rows
):
    model = tiny_causal() if objective.name == "ar" else tiny_denoiser()
    results = [
        score(model, objective, rows, Collator(tokenizer, padding_side=side), size, replicates=2)
        for size, side in [(1, "right"), (8, "right"), (8, "left"), (32, "left")]
    ]
    for result in results[1:]:
        assert result.nll == pytest.approx(results[0].nll, rel=1e-5)
        assert result.nll_data_stderr == pytest.approx(results[0].nll_data_stderr, rel=1e-4)
        np.testing.assert_allclose(result.unit_nll, results[0].unit_nll, rtol=1e-4)
        assert result.accuracy == pytest.approx(results[0].accuracy, abs=1e-9)


def test_the_nll_is_a_mean_over_tokens_not_over_batches(tiny_causal, tokenizer, rows):
    model = tiny_causal().eval()
    result = score(model, CausalObjective(), rows, Collator(tokenizer), batch_size=5)
    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            total += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert result.nll == pytest.approx(total / tokens, rel=1e-5)
    assert result.scored_tokens == tokens
    assert (result.nll_stderr, result.bound, result.replicates) == (0.0, "exact", 1)


def test_documents_are_summed_across_rows_and_batches(tiny_causal, tokenizer, rows):
    model = tiny_causal().eval()
    result = score(model, CausalObjective(), rows, Collator(tokenizer), batch_size=5)
    expected: dict[int, float] = {}
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            log_p = model(ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None]).squeeze(-1)
        for document, value in zip(row["document_ids"][1:], log_p.tolist(), strict=True):
            expected[document] = expected.get(document, 0.0) - value
    assert result.unit_ids.tolist() == sorted(expected)
    np.testing.assert_allclose(result.unit_nll, [expected[i] for i in sorted(expected)], rtol=1e-4)
    assert result.unit_tokens.sum() == result.scored_tokens


def test_blocks_are_the_unit_where_all_text_is_one_document(tiny_causal, tokenizer, rows):
    result = score(tiny_causal(), CausalObjective(), rows, Collator(tokenizer), data_unit="blocks")
    assert result.unit_ids.tolist() == list(range(len(rows)))
    assert result.data_unit == "blocks"


def test_the_data_standard_error_is_that_of_a_ratio_of_sums(tiny_causal, tokenizer, rows):
    """Against the jackknife over documents, which knows nothing of the formula."""
    result = score(tiny_causal(), CausalObjective(), rows, Collator(tokenizer), data_unit="blocks")
    units = len(result.unit_ids)
    without = (result.unit_nll.sum() - result.unit_nll) / (result.unit_tokens.sum() - result.unit_tokens)
    jackknife = math.sqrt((units - 1) / units * ((without - without.mean()) ** 2).sum())
    assert result.nll_data_stderr == pytest.approx(jackknife, rel=0.1)


def test_bits_per_byte_and_perplexity_follow_from_the_nll(tiny_causal, tokenizer, rows):
    rows[0]["num_bytes"] += 40  # bytes and tokens differ
    result = score(tiny_causal(), CausalObjective(), rows, Collator(tokenizer))
    metrics = result.metrics()
    num_bytes = sum(row["num_bytes"] for row in rows)
    assert metrics["eval_bpb"] == pytest.approx(result.nll * result.scored_tokens / num_bytes / math.log(2))
    assert metrics["eval_ppl"] == pytest.approx(math.exp(result.nll))
    assert metrics["eval_loss"] == metrics["eval_nll"] == result.nll
    for row in rows:
        del row["num_bytes"]
    assert "eval_bpb" not in score(tiny_causal(), CausalObjective(), rows, Collator(tokenizer)).metrics()


def test_accuracy_and_cross_entropy_count_masked_tokens_overall_and_by_noise(random_denoiser):
    """A denoiser that is right when at most one of two tokens is masked, and wrong when both are."""
    model = random_denoiser(2, 2, seed=0)
    with torch.no_grad():
        model.scores.fill_(math.log(0.1))
        model.scores[..., 0] = math.log(0.9)  # it says 0 ...
        model.scores[2, 2] = torch.tensor([0.1, 0.9], dtype=torch.float64).log()  # ... but 1 when all is masked
    result = evaluate_likelihood(
        model, MaskedDiffusionObjective(2), [whole_set(np.zeros((64, 2), dtype=np.int64))], 64, replicates=4
    )
    bins = result.accuracy_by_noise
    assert len(bins) == NOISE_BINS
    assert bins[4] == 1.0  # a masking rate of 1/2
    assert bins[9] == 0.0  # and of 1
    assert np.isnan(np.delete(bins, [4, 9])).all()
    assert result.nll_by_noise[[4, 9]] == pytest.approx([-math.log(0.9), -math.log(0.1)])
    assert result.metrics()["eval_nll_noise_1.0"] == pytest.approx(-math.log(0.1))
    assert np.isnan(np.delete(result.nll_by_noise, [4, 9])).all()
    assert result.accuracy == pytest.approx(1 / 3)  # of 3 masked tokens in the mean 1 is right
    assert [name for name in result.metrics() if "accuracy_noise" in name] == [
        "eval_accuracy_noise_0.5",
        "eval_accuracy_noise_1.0",
    ]


def test_replicates_are_independent_draws_and_cost_a_forward_each(random_denoiser):
    model = random_denoiser(3, 3, seed=1)
    batch = whole_set(np.random.default_rng(0).integers(0, 3, (32, 3)))
    result = evaluate_likelihood(model, MaskedDiffusionObjective(3), [batch], 32, replicates=8)
    assert model.calls == 8
    assert result.forwards == 8 * 32
    assert result.nll_stderr > 0
    assert evaluate_likelihood(model, MaskedDiffusionObjective(3), [batch], 32, replicates=1).nll_stderr is None
    assert (
        "eval_nll_stderr"
        not in evaluate_likelihood(model, MaskedDiffusionObjective(3), [batch], 32, replicates=1).metrics()
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in(tiny_denoiser, tokenizer, rows, training):
    model = tiny_denoiser().train(training)
    score(model, MaskedDiffusionObjective(259), rows, Collator(tokenizer), replicates=1)
    assert model.training is training

    def broken(rows):
        raise RuntimeError("no batch")

    with pytest.raises(RuntimeError, match="no batch"):
        score(model, MaskedDiffusionObjective(259), rows, broken, replicates=1)
    assert model.training is training


def test_nothing_to_evaluate_is_said(tiny_denoiser, tokenizer):
    context_only = [{"input_ids": [256, 97], "labels": [-100, -100]}]
    with pytest.raises(ValueError, match="scored"):
        score(tiny_denoiser(), MaskedDiffusionObjective(259), context_only, Collator(tokenizer))
    with pytest.raises(ValueError, match="empty"):
        score(tiny_denoiser(), MaskedDiffusionObjective(259), [], Collator(tokenizer))


def test_a_nll_that_is_not_a_number_is_not_a_perplexity_of_infinity(tiny_causal, tokenizer, rows):
    model = tiny_causal()
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    metrics = score(model, CausalObjective(), rows, Collator(tokenizer)).metrics()
    assert math.isnan(metrics["eval_nll"])
    assert math.isnan(metrics["eval_ppl"])
