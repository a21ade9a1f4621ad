"""Three ways to divide the cross-entropy of masked tokens, by enumeration: the NELBO, a looser bound, and no bound.

Notation: C_k(x) is the mean over all k-subsets of the summed cross-entropy of the k masked tokens of x, L the length.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

VOCABULARY, LENGTH = 2, 3
SEQUENCES = np.array(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
WEIGHTS = {  # of C_k(x)
    "nelbo": [1 / k for k in range(1, LENGTH + 1)],
    "sum CE / sum masked": [2 / (LENGTH + 1)] * LENGTH,
    "sum CE / scored": [1 / LENGTH] * LENGTH,
}


def _costs(joint_S: np.ndarray) -> np.ndarray:
    """(S, L) C_k(x) of the denoiser whose conditionals are those of ``joint_S``."""
    costs = np.zeros((len(SEQUENCES), LENGTH))
    for row, x in enumerate(SEQUENCES):
        for k in range(1, LENGTH + 1):
            for masked in itertools.combinations(range(LENGTH), k):
                seen = [i for i in range(LENGTH) if i not in masked]
                fits = (SEQUENCES[:, seen] == x[seen]).all(-1)
                chances = [joint_S[fits & (SEQUENCES[:, i] == x[i])].sum() / joint_S[fits].sum() for i in masked]
                costs[row, k - 1] -= np.log(chances).sum() / math.comb(LENGTH, k)
    return costs


def _sources() -> np.ndarray:
    """(N, S) distributions of every degree of dependence."""
    return np.concatenate([np.random.default_rng(0).dirichlet([a] * len(SEQUENCES), 40) for a in (0.1, 0.5, 2.0)])


def _kraft(name: str) -> float:
    """The largest sum of exp(-u) over the sources."""
    return max(np.exp(-_costs(p_S + 1e-9) @ WEIGHTS[name]).sum() for p_S in _sources())


@pytest.mark.borders
def test_the_mean_over_masked_tokens_is_a_looser_bound_and_the_pages_say_so():
    looser, tight = [], []
    for p_S in _sources() + 1e-9:
        costs_SL, p_S = _costs(p_S), p_S / p_S.sum()
        looser.append(p_S @ costs_SL @ WEIGHTS["sum CE / sum masked"])
        tight.append(p_S @ costs_SL @ WEIGHTS["nelbo"])
        assert tight[-1] == pytest.approx(-(p_S * np.log(p_S)).sum())
    assert (np.array(looser) >= np.array(tight) - 1e-9).all()
    assert np.max(np.array(looser) - np.array(tight)) > 0.1
    assert _kraft("sum CE / sum masked") <= 1 + 1e-9
    page = " ".join((Path(__file__).parents[2] / "docs" / "concepts.md").read_text(encoding="utf-8").split())
    assert (
        "(Σ CE / Σ masked) gives count k the weight 2k/(L+1) in place of 1: a bound as well, but a looser one" in page
    )
    assert "no bound" not in page


def test_without_the_weight_it_is_none():
    assert _kraft("nelbo") <= 1 + 1e-9
    assert _kraft("sum CE / scored") > 1.01
