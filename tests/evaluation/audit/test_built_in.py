"""Kraft sums of the built-in subjects by enumeration: at most 1 for each bound, above it for what only looks like one."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from hf_difflm.evaluation.audit.built_in import BUILT_IN, built_in
from hf_difflm.evaluation.audit.examination import Examination, examine, sampler_test
from hf_difflm.evaluation.audit.report import text_of
from hf_difflm.evaluation.audit.subjects import (
    Size,
    block_law,
    left_to_right_law,
    random_order_law,
    random_tables,
)

INVALID = ("sum_over_scored", "dependent_tokens", "p2_uncorrected", "reciprocal_one_minus_cosine")
LOOSER = ("sum_over_masked", "reciprocal_cosine")
OF_OTHERS = ("protocol_llada", "protocol_dream")
EXACT = ("left_to_right", "confidence", "margin", "entropy", "random", "ar", "bd3lm:1")
TIGHT = ("p0", "p0_time", "p0_cosine", "pairs", "importance", "p1", "p2", "bd3lm:2", "bd3lm:4", *EXACT)
SLOW = ("p2", "p3")


@cache
def found(name: str, tokens_per_step: str = "1") -> Examination:
    # Two tokens less where a table for each time is trained: seconds.
    size = Size(2, 3 if name in SLOW else 4, denoisers=8, tokens_per_step=tokens_per_step)
    return examine(built_in(name, size), size)


def values(sums) -> list[float]:
    return [one.value for one in sums]


def test_every_subject_is_of_one_kind():
    assert {*TIGHT, "p3", *LOOSER, *INVALID, *OF_OTHERS} == set(BUILT_IN)


@pytest.mark.parametrize("name", [*TIGHT, "p3", *LOOSER])
def test_a_bound_sums_to_one_at_most(name):
    one = found(name)
    assert one.exact
    assert len(one.sums["optimum"]) == len(one.sums["random"]) == 8
    assert max(values(one.sums["optimum"]) + values(one.sums["random"])) <= 1 + 1e-6
    assert one.entropy.excess > -1e-6
    assert one.verdict.sentence == f"bound: no counterexample in 16 denoisers at V^L = {one.size.sequences}"
    assert one.verdict.exit_code == 0


@pytest.mark.parametrize("name", TIGHT)
def test_a_tight_one_sums_to_one_at_its_optimum_and_reaches_every_entropy(name):
    one = found(name)
    assert values(one.sums["optimum"]) == pytest.approx([1] * 8, abs=1e-6)
    assert (one.entropy.excess, one.entropy.most_excess) == pytest.approx((0, 0), abs=1e-6)
    assert "reaches the entropy of each source, and goes no lower" in text_of(one)


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_number_sums_to_one_for_every_denoiser(name):
    assert values(found(name).sums["random"]) == pytest.approx([1] * 8, abs=1e-6)


@pytest.mark.parametrize("tokens", ["2", "3", "entropy_bounded:0.5"])
def test_an_order_that_reveals_several_tokens_at_once_is_exact_and_not_tight(tokens):
    one = found("entropy", tokens)
    assert values(one.sums["optimum"] + one.sums["random"]) == pytest.approx([1] * 16, abs=1e-9)
    assert one.entropy.most_excess > 1e-3
    assert one.verdict.outcome == "bound"


@pytest.mark.parametrize("name", LOOSER)
def test_what_looks_wrong_and_is_a_looser_bound_is_said_to_be_one(name):
    one = found(name)
    assert max(values(one.sums["optimum"])) < 1 - 1e-3
    assert one.entropy.excess > 1e-3
    assert "nats above the entropy, a looser bound" in text_of(one)
    assert one.sampler.below > 0  # a bound on the nll of another sampler


@pytest.mark.parametrize("name", INVALID)
def test_what_is_no_bound_sums_to_more_at_the_optimum_of_its_own_training_loss(name):
    one = found(name)
    worst = max(values(one.sums["optimum"]))
    assert worst > 1.05
    assert one.entropy.excess < -0.01
    assert one.verdict.outcome == "not a bound"
    assert one.verdict.sentence == f"not a bound: sums to {max([worst, *values(one.sums['random'])]):.2f}"
    assert one.verdict.exit_code == 1
    assert "nats below the entropy" in text_of(one)


@pytest.mark.parametrize("name", ["p2_uncorrected", "reciprocal_one_minus_cosine"])
def test_at_random_denoisers_alone_two_of_them_would_pass(name):
    """Why the sum is taken at the optimum of the training loss too."""
    assert max(values(found(name).sums["random"])) < 1


@pytest.mark.parametrize("name", [*TIGHT, "p3", *LOOSER, *INVALID])
def test_the_law_of_the_sampler_is_normalised(name):
    one = found(name)
    assert (one.sampler.least, one.sampler.most) == pytest.approx((1, 1), abs=1e-6)


@pytest.mark.parametrize("name", [*TIGHT, "p3"])
def test_a_bound_is_above_the_nll_of_its_own_sampler_at_every_sequence(name):
    assert found(name).sampler.margin > -1e-5
    assert found(name).sampler.below == 0


@pytest.mark.parametrize("tokens", [4, 5])
def test_blocks_as_long_as_the_text_are_p0(tokens):
    whole, blocks = found("p0"), found(f"bd3lm:{tokens}")
    assert values(blocks.sums["random"]) == pytest.approx(values(whole.sums["random"]), abs=1e-9)
    model = random_tables(whole.size, built_in("p0", whole.size))
    np.testing.assert_allclose(block_law(model, np.zeros(4)), random_order_law(model), atol=1e-9)


def test_blocks_of_one_token_are_read_from_left_to_right():
    size = Size(2, 4, denoisers=3)
    model = random_tables(size, built_in("p0", size))
    np.testing.assert_allclose(block_law(model, np.arange(4)), left_to_right_law(model), atol=1e-9)


def test_smaller_blocks_have_other_laws():
    """Each is the law of its own sampler: with the borders of another the number would be below it."""
    size = Size(2, 4, denoisers=8)
    model = random_tables(size, built_in("bd3lm:2", size))
    number = built_in("bd3lm:2", size).reported.values(model)
    assert sampler_test("own", block_law(model, np.array([0, 0, 1, 1])), number).below == 0
    for blocks_L in ([0, 1, 1, 2], [0, 0, 0, 0], [0, 1, 2, 3]):
        assert sampler_test("other", block_law(model, np.array(blocks_L)), number).below > 0


def test_p3_is_valid_and_not_tight():
    one = found("p3")
    assert 1e-3 < one.entropy.most_excess < 0.1
    assert min(values(one.sums["optimum"])) < 0.999
    assert "a looser bound" in text_of(one)


@pytest.mark.parametrize(
    ("length", "outcome"), [(1, "bound"), (2, "bound"), (3, "not a bound"), (4, "bound"), (5, "not a bound")]
)
def test_lladas_rounded_counts_are_a_bound_at_some_lengths_only(length, outcome):
    """Of an even length the even counts are too frequent, which see less; of an odd one small counts are."""
    size = Size(2, length, denoisers=8)
    one = examine(built_in("protocol_llada", size), size)
    assert one.verdict.outcome == outcome
    assert (one.entropy.excess < -1e-3) == (outcome == "not a bound")


def test_dreams_masks_are_a_bound_and_hardly_looser_than_p0():
    one = found("protocol_dream")
    assert one.verdict.outcome == "bound"
    assert 0 < one.entropy.excess < one.entropy.most_excess < 2e-3


def test_the_seed_decides():
    size = Size(2, 2, denoisers=3)
    twice = [examine(built_in("p0", size), size) for _ in range(2)]
    other = examine(built_in("p0", Size(2, 2, denoisers=3, seed=1)), Size(2, 2, denoisers=3, seed=1))
    assert text_of(twice[0]) == text_of(twice[1])
    assert values(twice[0].sums["random"]) != values(other.sums["random"])


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_three_tokens_tell_the_same(name):
    size = Size(3, 3)
    one = examine(built_in(name, size), size)
    assert one.verdict.outcome == ("not a bound" if name in (*INVALID, "protocol_llada") else "bound")
    assert (one.sampler.least, one.sampler.most) == pytest.approx((1, 1), abs=1e-6)
