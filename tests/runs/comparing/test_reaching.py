"""What a run had spent when an evaluation was first at or below a value."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run

from hf_difflm.runs.comparing.reaching import Reached, median_reached, reached


def test_tokens_and_flops_are_those_of_the_first_evaluation_that_is_low_enough():
    run = make_run(steps=100, evaluations=5)  # of 0, 20, ... 100 steps
    nll = {record.iter: record.nll for record in run.evaluations}
    assert reached(run, nll[40]) == Reached(4000.0, 40e9)
    assert reached(run, (nll[40] + nll[20]) / 2) == Reached(4000.0, 40e9)
    assert reached(run, nll[0]) == Reached(0.0, 0.0)
    assert reached(run, nll[100] - 1e-9) is None


def test_flops_that_are_not_counted_are_not_told():
    run = make_run(columns={"total_flops": np.full(100, np.nan)})
    assert reached(run, 3.0).flops is None


def test_of_several_runs_the_medians_if_all_come_so_low():
    runs = [make_run(steps=steps, evaluations=4) for steps in (40, 80, 400)]
    assert median_reached(runs, 2.0 + 3 * np.exp(-4) + 1e-9) == Reached(4000.0, 40e9)
    assert median_reached([*runs, make_run(final=3.0)], 2.5) is None
    assert median_reached([], 2.5) is None


@pytest.mark.parametrize("missing", ["tokens_seen", "iter"])
def test_a_log_without_counts_says_nothing(missing):
    run = make_run(columns={missing: np.full(100, np.nan)})
    assert reached(run, 2.5) is None
