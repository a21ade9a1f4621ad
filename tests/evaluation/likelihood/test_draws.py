"""An evaluation that stops when it knows enough: the bits of a fixed number of draws, and an interval that covers."""

from __future__ import annotations

import copy
import math
import threading

import numpy as np
import pytest
import torch

from hf_difflm.data import Collator
from hf_difflm.errors import UserError
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches
from hf_difflm.evaluation.likelihood.draws import FEWEST_REPLICATES, MOST_REPLICATES, Draws
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.evaluation.likelihood.standard_errors import standard_error_of_draws
from hf_difflm.objectives import CausalObjective, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.noise import row_uniforms, stratified_uniforms

P0 = MaskedDiffusionObjective(259)
T_QUANTILES = {3: 3.1824, 4: 2.7764, 5: 2.5706, 6: 2.4469, 7: 2.3646, 8: 2.3060, 9: 2.2622, 10: 2.2281, 11: 2.2010}


def t_quantile(df: int) -> float:
    """97.5 % of Student's t: from a table, and above it by Cornish and Fisher's expansion (to 4 digits from 12 on)."""
    z = 1.959964
    return T_QUANTILES.get(df) or z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


@pytest.fixture
def score(tiny_denoiser, tokenizer, rows):
    """``score(batch_size=8, count=22, **settings)``: the likelihood of the first rows under one denoiser."""
    model, collator = tiny_denoiser(), Collator(tokenizer)

    def call(batch_size: int = 8, count: int = 22, together: bool = False, **settings):
        batches = EvaluationBatches(rows[:count], collator, batch_size)
        if together:
            settings["replicates_at_once"] = batches.replicates_at_once
        return evaluate_likelihood(model, P0, batches, count, **settings)

    return call


def assert_same_bits(one, other):
    assert one.metrics() == other.metrics()
    np.testing.assert_array_equal(one.unit_nll, other.unit_nll)


def test_a_target_ends_at_the_first_error_that_is_small_enough_with_the_bits_of_that_many_draws(score):
    target = 1.0001 * score(replicates=11).nll_stderr
    stopped = score(replicates=1, target_stderr=target)
    errors = {k: score(replicates=k).nll_stderr for k in range(FEWEST_REPLICATES, 12)}
    assert stopped.replicates == min(k for k, error in errors.items() if error <= target) > FEWEST_REPLICATES
    assert stopped.nll_stderr <= target
    assert stopped.forwards == stopped.metrics()["eval_forwards"] == 22 * stopped.replicates
    assert_same_bits(stopped, score(replicates=stopped.replicates))


def test_replicates_that_share_a_forward_find_what_each_alone_finds(score):
    """Five rows in batches of at most 16: three replicates a forward."""
    apart, together = (score(16, 5, together, replicates=7) for together in (False, True))
    assert together.nll == pytest.approx(apart.nll, rel=1e-6)
    assert together.nll_stderr == pytest.approx(apart.nll_stderr, rel=1e-4)
    np.testing.assert_allclose(together.unit_nll, apart.unit_nll, rtol=1e-5)
    np.testing.assert_allclose(together.nll_by_noise, apart.nll_by_noise, rtol=1e-5)
    np.testing.assert_array_equal(together.accuracy_by_noise, apart.accuracy_by_noise)
    assert (together.forwards, together.accuracy) == (apart.forwards, apart.accuracy)


def test_a_target_takes_replicates_that_share_a_forward_together(score):
    target = score(16, 5, together=True, replicates=12).nll_stderr
    stopped = score(16, 5, together=True, replicates=1, target_stderr=target)
    assert stopped.replicates in (6, 9, 12)
    assert_same_bits(stopped, score(16, 5, together=True, replicates=stopped.replicates))
    ended = score(16, 5, together=True, replicates=1, target_stderr=1e-9, max_replicates=8)
    assert ended.replicates == 8
    assert_same_bits(ended, score(16, 5, together=True, replicates=8))


@pytest.mark.parametrize("pairs", [False, True])
def test_forwards_are_as_few_as_the_batch_allows(random_denoiser, pairs):
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (5, 3)))
    batch = {"input_ids": ids, "labels": ids, "index": torch.arange(5)}
    found = {}
    for at_once in (1, 3, 8):
        model = random_denoiser(3, 3, seed=1)
        settings = {"replicates": 8, "replicates_at_once": at_once}
        objective = MaskedDiffusionObjective(3).for_evaluation(pairs=pairs)
        found[at_once] = evaluate_likelihood(model, objective, [batch], 5, **settings)
        assert model.calls == math.ceil(8 / at_once)
        assert found[at_once].forwards == (2 if pairs else 1) * 8 * 5
    # This denoiser computes row by row in float64, so nothing depends on the rows beside one.
    assert_same_bits(found[1], found[3])
    assert_same_bits(found[1], found[8])


def test_rows_of_several_draws_get_the_noise_of_each():
    key = NoiseKey(3, np.repeat([5, 0, 2], 4), np.tile([1, 0, 6, 7], 3), 9, "eval")
    alone = [NoiseKey(3, step, np.array([1, 0, 6, 7]), 9, "eval") for step in (5, 0, 2)]
    np.testing.assert_array_equal(stratified_uniforms(key), np.concatenate([stratified_uniforms(one) for one in alone]))
    counts = np.array([2, 5, 1, 3])
    expected = [row for one in alone for row in row_uniforms(one, counts)]
    for found, row in zip(row_uniforms(key, np.tile(counts, 3)), expected, strict=True):
        np.testing.assert_array_equal(found, row)


@pytest.mark.parametrize(("size", "batch_size", "ranks", "at_once"), [(8, 32, 1, 4), (8, 32, 3, 10), (33, 32, 1, 1)])
def test_so_many_replicates_fit_into_a_forward_on_every_rank(train_rows, tokenizer, size, batch_size, ranks, at_once):
    for rank in range(ranks):
        batches = EvaluationBatches(train_rows(size), Collator(tokenizer), batch_size, rank, ranks)
        assert batches.replicates_at_once == at_once
        assert len(batches) == len(list(batches)) == len(list(batches))


def test_the_interval_covers_the_truth_although_its_width_decided_when_to_stop(random_denoiser):
    """200 repeats, targets that take 4 to 40 draws: 95 % nominal, 91 % expected in the worst case (see Draws)."""
    model, objective = random_denoiser(3, 3, seed=7), MaskedDiffusionObjective(3)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (16, 3)))
    batches = [{"input_ids": ids, "labels": ids, "index": torch.arange(16)}]
    many = evaluate_likelihood(model, objective, batches, 16, replicates=4096, seed=1000, replicates_at_once=512)
    spread = many.nll_stderr * math.sqrt(4096)
    covered, draws = [], []
    for repeat in range(200):
        target = spread / math.sqrt((2, 8, 16, 24)[repeat % 4])
        settings = {"replicates": 4, "target_stderr": target, "seed": repeat}
        found = evaluate_likelihood(model, objective, batches, 16, **settings)
        covered.append(abs(found.nll - many.nll) <= t_quantile(found.replicates - 1) * found.nll_stderr)
        draws.append(found.replicates)
        assert found.nll_stderr <= target
    assert 0.90 <= np.mean(covered) <= 0.995
    assert (min(draws), max(draws) > 20) == (4, True)


def test_all_ranks_stop_alike(tiny_denoiser, tokenizer, rows):
    """Two ranks in threads that really exchange what they find, pass by pass."""
    settings = {"replicates": 1, "max_replicates": 20}
    alone = EvaluationBatches(rows, Collator(tokenizer), 6)
    target = 1.0001 * evaluate_likelihood(tiny_denoiser(), P0, alone, 22, replicates=9).nll_stderr
    barrier, boxes, results = threading.Barrier(2, timeout=900), [None, None], [None, None]
    models = [tiny_denoiser(), tiny_denoiser()]

    def work(rank: int) -> None:
        def gather(part):
            boxes[rank] = copy.deepcopy(part[0])
            barrier.wait()
            found = list(boxes)
            barrier.wait()
            return found

        batches = EvaluationBatches(rows, Collator(tokenizer), 6, rank, 2)
        found = evaluate_likelihood(models[rank], P0, batches, 22, target_stderr=target, gather=gather, **settings)
        results[rank] = found

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same_bits(*results)
    one = evaluate_likelihood(tiny_denoiser(), P0, alone, 22, target_stderr=target, **settings)
    assert results[0].replicates == one.replicates > FEWEST_REPLICATES
    assert results[0].nll == pytest.approx(one.nll, rel=1e-6)
    assert results[0].forwards == one.forwards == 22 * one.replicates


def test_what_cannot_be_reached_ends_at_the_most_and_what_is_no_number_at_once(score, tiny_denoiser, tokenizer, rows):
    assert score(target_stderr=1e-9, max_replicates=10).replicates == 10
    model = tiny_denoiser()
    torch.nn.init.constant_(model.lm_head.weight, math.nan)
    batches = EvaluationBatches(rows, Collator(tokenizer), 8)
    broken = evaluate_likelihood(model, P0, batches, 22, replicates=4, target_stderr=0.1)
    assert math.isnan(broken.nll_stderr)
    assert broken.replicates == 4


def test_an_exact_likelihood_draws_nothing_whatever_the_target(tiny_causal, tokenizer, rows):
    batches = EvaluationBatches(rows, Collator(tokenizer), 8)
    found = evaluate_likelihood(tiny_causal(), CausalObjective(), batches, 22, target_stderr=1e-6)
    assert (found.nll_stderr, found.replicates, found.forwards) == (0.0, 1, 22)


def test_batches_that_can_be_read_only_once_are_refused_with_a_target(score, tiny_denoiser, tokenizer, rows):
    once = iter(EvaluationBatches(rows, Collator(tokenizer), 8))
    with pytest.raises(ValueError, match="read again"):
        evaluate_likelihood(tiny_denoiser(), P0, once, 22, target_stderr=0.1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"replicates": 0}, "eval_replicates must be a positive integer, got 0"),
        ({"target_stderr": 0.0}, "target_stderr must be a number above 0, got 0.0"),
        ({"target_stderr": -1.0}, "target_stderr must be a number above 0, got -1.0"),
        ({"target_stderr": math.nan}, "target_stderr must be a number above 0, got nan"),
        ({"target_stderr": math.inf}, "target_stderr must be a number above 0, got inf"),
        ({"target_stderr": 0.1, "max_replicates": 7}, "max_eval_replicates is 7, fewer than the 8 draws"),
        ({"target_stderr": 0.1, "replicates": 1, "max_replicates": 3}, "is 3, fewer than the 4 draws"),
        ({"max_replicates": 20}, "max_eval_replicates 20 has no use without target_stderr"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        Draws(**settings)


def test_the_standard_error_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=9)
    assert standard_error_of_draws(values.tolist()) == pytest.approx(values.std(ddof=1) / 3, rel=1e-12)
    assert standard_error_of_draws([1.0]) is None
    assert Draws(1, 1e-9).next_pass([0.0] * MOST_REPLICATES) == range(MOST_REPLICATES, MOST_REPLICATES)
