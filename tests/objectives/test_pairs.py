"""Complementary pairs: the same bound, exactly; every token predicted once a pair; less noise at equal forwards."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.data import Collator
from hf_difflm.evaluation.audit.numbers import ObjectiveNumber
from hf_difflm.objectives import (
    AdaptiveMaskingObjective,
    AdaptiveSettings,
    CausalObjective,
    MaskedDiffusionObjective,
    NoiseKey,
)
from hf_difflm.objectives import masked_diffusion as module

MASK = 259


def pairs(mask_token_id: int = MASK) -> MaskedDiffusionObjective:
    return MaskedDiffusionObjective(mask_token_id, noise_sampling="pairs")


def key_of(size: int, step: int = 0) -> NoiseKey:
    return NoiseKey(3, step, np.arange(size), size)


def nelbo_of_table(model, sequence: tuple[int, ...]) -> float:
    """sum_k (mean over k-subsets of the mean cross-entropy of the hidden), from the table of a tabular denoiser alone."""
    length, mask = model.length, model.mask_token_id
    total = 0.0
    for k in range(1, length + 1):
        for hidden in itertools.combinations(range(length), k):
            seen = tuple(mask if i in hidden else sequence[i] for i in range(length))
            costs = [-float(model.scores[seen][i, sequence[i]].detach()) for i in hidden]
            total += sum(costs) / k / math.comb(length, k)
    return total


def enumerated(model, sequence: tuple[int, ...]) -> float:
    """The mean of the objective's own estimate over all (U, subset): every count is as likely, and every subset of it."""
    return float(ObjectiveNumber(pairs(model.mask_token_id), np.array([sequence])).values(model)[0, 0, 0])


@pytest.mark.parametrize(("length", "vocabulary"), [(1, 3), (2, 3), (3, 3), (5, 2)])
def test_the_mean_over_all_counts_and_subsets_is_the_nelbo_of_any_network(random_denoiser, length, vocabulary):
    model = random_denoiser(length, vocabulary, seed=length)
    for sequence in itertools.islice(itertools.product(range(vocabulary), repeat=length), 9):
        estimate = enumerated(model, sequence)
        assert estimate == pytest.approx(nelbo_of_table(model, sequence), abs=1e-6)


def test_with_exact_conditionals_it_is_the_negative_log_likelihood(small_joint, exact_denoiser):
    joint = small_joint(3, 2, seed=1)
    for sequence in itertools.product(range(2), repeat=3):
        estimate = enumerated(exact_denoiser(joint), sequence)
        assert estimate == pytest.approx(-math.log(joint[sequence]), abs=1e-6)


def test_without_the_case_that_hides_all_it_would_be_another_number(random_denoiser, monkeypatch):
    """k from 1..L-1 alone leaves out a share 1/L of the bound: the tests above can fail."""
    halves = module._with_complements

    def wrong(masked_BL, scored_BL):
        drawn = halves(masked_BL, scored_BL)
        return replace(drawn, weights_B=np.where(drawn.masking_rate_B == 1, 0.0, drawn.weights_B))

    monkeypatch.setattr(module, "_with_complements", wrong)
    model = random_denoiser(3, 3, seed=3)
    assert enumerated(model, (0, 2, 1)) < 0.9 * nelbo_of_table(model, (0, 2, 1))


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6), step=st.integers(0, 10**6))
def test_each_scored_token_is_hidden_once_a_pair_and_the_weights_add_up_to_the_tokens(lengths, step):
    scored = np.arange(9) < np.array(lengths)[:, None]
    drawn = pairs().corrupt(scored, key_of(len(lengths), step))
    hidden_BPL = drawn.masked_BL.reshape(len(lengths), 2, 9)
    np.testing.assert_array_equal(hidden_BPL.sum(1), scored)
    # Constant costs: every draw gives each sequence the same total, its number of tokens.
    totals = (drawn.weights_B * drawn.masked_BL.sum(-1)).reshape(-1, 2).sum(-1)
    np.testing.assert_allclose(totals, scored.sum(-1), atol=1e-9)
    first = MaskedDiffusionObjective(MASK).corrupt(scored, key_of(len(lengths), step))
    np.testing.assert_array_equal(hidden_BPL[:, 0], first.masked_BL)  # k as stratified as without pairs
    counts = scored.sum(-1).repeat(2)
    np.testing.assert_allclose(np.exp(-drawn.noise_level_B), 1 - drawn.masked_BL.sum(-1) / (counts + 1), atol=1e-9)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_prompts_and_other_rows_change_nothing(tiny_denoiser, tokenizer, train_rows, side):
    model = tiny_denoiser().eval()
    rows = train_rows(6, ragged=True, prompts=True)
    total = sum(sum(label != -100 for label in row["labels"]) for row in rows)
    batch = Collator(tokenizer, padding_side=side)(rows)
    output = pairs()(model, batch, key_of(6), total, accuracy=True)
    alone = [
        pairs()(model, Collator(tokenizer)([row]), NoiseKey(3, 0, np.array([i]), 6), total)
        for i, row in enumerate(rows)
    ]
    assert float(output.loss.detach()) == pytest.approx(sum(float(one.loss.detach()) for one in alone), rel=1e-5)
    torch.testing.assert_close(output.token_nll_N, torch.cat([one.token_nll_N for one in alone]), rtol=1e-4, atol=1e-5)


def test_what_is_said_of_the_tokens_belongs_to_the_sequences_and_to_the_readings(tiny_denoiser, tokenizer, train_rows):
    batch = Collator(tokenizer)(train_rows(5, ragged=True))
    scored = (batch["labels"] != -100).numpy()
    output = pairs()(tiny_denoiser(), batch, key_of(5), int(scored.sum()), accuracy=True)
    assert (output.reads, len(output.row_metrics["masking_rate"])) == (2, 10)
    np.testing.assert_array_equal(output.reads_N // 2, output.rows_N)
    asked = sorted(zip(output.rows_N.tolist(), output.columns_N.tolist(), strict=True))
    assert asked == [tuple(place) for place in np.argwhere(scored).tolist()]  # each once
    assert len(output.token_nll_N) == len(output.token_correct_N) == len(output.token_weights_N) == scored.sum()
    weighted = output.token_weights_N @ output.token_nll_N.double().numpy() / scored.sum()
    assert float(output.loss.detach()) == pytest.approx(weighted, rel=1e-5)
    hidden_R = np.bincount(output.reads_N, minlength=10)
    np.testing.assert_allclose(output.row_metrics["masking_rate"] * scored.sum(-1).repeat(2), hidden_R, atol=1e-9)


def test_one_reading_says_the_same_of_rows_and_readings(tiny_denoiser, tokenizer, train_rows):
    batch = Collator(tokenizer)(train_rows(3))
    output = MaskedDiffusionObjective(MASK)(tiny_denoiser(), batch, key_of(3), 33)
    assert output.reads == 1
    np.testing.assert_array_equal(output.reads_N, output.rows_N)


def test_the_estimate_is_right_and_less_noisy_than_stratified_draws_of_as_many_forwards():
    """Tokens of which each has its own cost, whatever is hidden beside it: the sum is known, only the draw varies."""
    costs_L = np.random.default_rng(0).standard_gamma(1.0, 48)

    def estimates(objective: MaskedDiffusionObjective, size: int) -> np.ndarray:
        scored = np.ones((size, 48), dtype=bool)
        draws = [objective.corrupt(scored, key_of(size, step)) for step in range(400)]
        return np.array([drawn.weights_B @ (drawn.masked_BL @ costs_L) / size for drawn in draws])

    in_pairs, single = estimates(pairs(), 8), estimates(MaskedDiffusionObjective(MASK), 16)
    assert abs(in_pairs.mean() - costs_L.sum()) < 3.5 * in_pairs.std(ddof=1) / math.sqrt(400)
    assert in_pairs.std() < 0.9 * single.std()


def test_a_batch_without_scored_tokens_costs_nothing_and_can_go_backward(tiny_denoiser):
    model = tiny_denoiser()
    batch = {"input_ids": torch.full((2, 5), 97), "labels": torch.full((2, 5), -100)}
    output = pairs()(model, batch, key_of(2), 1)
    output.loss.backward()
    assert float(output.loss.detach()) == 0.0
    assert not any(p.grad.any() for p in model.parameters())


def test_evaluations_read_in_pairs_only_if_asked(tiny_denoiser):
    assert pairs().for_evaluation().count_law.name == "importance"
    assert MaskedDiffusionObjective(9, "time", "iid").for_evaluation(pairs=True).noise_sampling == "pairs"
    exact = CausalObjective()
    assert exact.for_evaluation(pairs=True) is exact


def test_pairs_without_a_complement_are_refused():
    with pytest.raises(ValueError, match="exact counts"):
        MaskedDiffusionObjective(9, "time", "pairs")
    with pytest.raises(ValueError, match="uniform masking"):
        AdaptiveMaskingObjective(pairs(9), AdaptiveSettings("none", "none"), 10)
