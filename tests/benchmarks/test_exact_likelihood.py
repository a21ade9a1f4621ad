"""``benchmarks/exact_likelihood.py`` at toy size: both sides find the same number."""

from __future__ import annotations

import pytest
from processes.toy_benchmark import toy


@pytest.mark.slow
def test_both_loops_find_the_same_likelihood_and_the_forwards_are_one_a_token():
    found = toy("exact_likelihood.py")["orders"]  # it ends with an error where they differ
    assert set(found) == {"left_to_right", "confidence"}
    assert {one["forwards"] for one in found.values()} == {4 * 32}
