"""Counting tokens and what a count says of importance."""

from __future__ import annotations

import math

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_difflm.data import Collator
from hf_difflm.errors import UserError
from hf_difflm.objectives import AdaptiveSettings, count_tokens
from hf_difflm.objectives.adaptive.frequency_prior import frequency_importance, token_probabilities
from hf_difflm.objectives.adaptive.importance_values import ImportanceReader

ROWS = [{"input_ids": [1, 2, 2], "labels": [-100, 2, 2]}, {"input_ids": [1, 4], "labels": [1, 4]}]
all_counts = hnp.arrays(np.int64, st.integers(2, 40), elements=st.integers(0, 10**6))


def test_scored_tokens_are_counted_in_lists_and_data_sets_and_streams():
    expected = [0, 1, 2, 0, 1]
    data = datasets.Dataset.from_list(ROWS)
    for rows in (ROWS, data, data.to_iterable_dataset()):
        assert count_tokens(rows, 5).tolist() == expected
    assert count_tokens([{"input_ids": row["input_ids"]} for row in ROWS], 5).tolist() == [0, 2, 2, 0, 1]
    assert count_tokens(data.to_iterable_dataset(), 5, most_rows=1).tolist() == [0, 0, 2, 0, 0]
    assert count_tokens([], 5).tolist() == [0] * 5


def test_what_is_context_in_a_batch_is_not_counted(tokenizer):
    """Against the labels of the collator: BOS at the start or behind padding, a BOS within, padding, rows of BOS alone."""
    bos = tokenizer.bos_token_id
    plain = [{"input_ids": ids} for ids in ([bos, 1, bos, 2], [3, bos], [bos], [4, 4, 4])]
    padded = [
        {"input_ids": [258, bos, 5], "attention_mask": [0, 1, 1]},
        {"input_ids": [bos, 6, 258], "attention_mask": [1, 1, 0]},
    ]
    for rows in (plain, padded):
        labels = Collator(tokenizer)(rows)["labels"].numpy()
        expected = np.bincount(labels[labels != -100], minlength=260)
        np.testing.assert_array_equal(count_tokens(rows, 260, bos_token_id=bos), expected)


def test_many_rows_are_counted_as_numpy_counts_them():
    rows = [{"input_ids": ids} for ids in np.random.default_rng(0).integers(0, 50, (2500, 7))]
    expected = np.bincount(np.stack([row["input_ids"] for row in rows]).ravel(), minlength=50)
    np.testing.assert_array_equal(count_tokens(rows, 50), expected)


@pytest.mark.parametrize(("wrong", "said"), [(5, "token 5"), (-1, "token -1")])
def test_a_token_outside_the_vocabulary_is_named(wrong, said):
    with pytest.raises(UserError, match=said):
        count_tokens([{"input_ids": [1, wrong]}], 5)


@given(all_counts)
def test_the_prior_is_a_distribution_and_importance_is_between_0_and_1_and_falls_with_frequency(counts):
    p = token_probabilities(counts)
    assert p.sum() == pytest.approx(1)
    importance = frequency_importance(counts)
    assert ((importance >= 0) & (importance <= 1)).all()
    order = np.argsort(counts, kind="stable")
    assert (np.diff(importance[order]) <= 0).all()


def test_importance_is_the_unigram_cost_in_units_of_log_v():
    counts = np.array([89, 4, 3, 0])  # with add-one: 0.9, 0.05, 0.04, 0.01
    expected = [-math.log(0.9) / math.log(4), 1, 1, 1]
    np.testing.assert_allclose(frequency_importance(counts), expected)
    np.testing.assert_allclose(frequency_importance(np.zeros(7)), 1)


@given(all_counts, st.sampled_from([1.0, -1.0, 0.3]))
def test_the_geometric_mean_of_the_schedules_is_one_over_the_tokens_of_the_corpus(counts, exponent):
    reader = ImportanceReader(AdaptiveSettings("frequency_only"), None, counts)
    log_r = np.log(reader.token_value_r(exponent))
    assert np.abs(log_r).max() <= math.log(4) + 1e-9
    weights = counts if counts.sum() else np.ones(len(counts))
    assert (weights * log_r).sum() / weights.sum() == pytest.approx(0, abs=1e-8)
