"""The table of what we log: everything is in it, and names of others are not."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run

from hf_difflm.evaluation.likelihood.evaluate import LikelihoodResult
from hf_difflm.objectives.names import OBJECTIVES
from hf_difflm.runs.derived.document import summarize
from hf_difflm.runs.journal.quantities import LIKELIHOOD, LIKELIHOOD_OBJECTIVES, STEP, evaluation_quantity, quantity
from hf_difflm.runs.journal.schema import STEP_NUMBERS


def test_whatever_we_log_is_in_the_table():
    bins = np.linspace(0.1, 1, 10)
    result = LikelihoodResult(
        *(2.0, 0.1, 0.1, "documents", "nelbo", 10, 10, 0.5, bins, bins, 8, 8),
        *(np.arange(2), np.arange(2), np.arange(2.0)),
    )
    own = ("runtime", "samples_per_second", "native_nll", "native_nll_stderr", "native_forwards")
    names = [*result.metrics(), *(f"eval_{name}" for name in own), *summarize(make_run())]
    assert [name for name in names if quantity(name) is None] == []
    assert {name for name in STEP_NUMBERS if name not in STEP} == {"iter", "steps"}
    assert set(OBJECTIVES) <= LIKELIHOOD_OBJECTIVES


@pytest.mark.borders
@pytest.mark.parametrize(
    ("name", "better", "unit"),
    [
        ("eval_nll", "lower", "nats/token"),
        ("nll", "lower", "nats/token"),
        ("eval_wiki_nll", "lower", "nats/token"),
        ("eval_wiki_native_nll", "lower", "nats/token"),
        ("eval_ppl", "lower", ""),
        ("bpb", "lower", "bits/byte"),
        ("eval_loss", "lower", ""),
        ("accuracy", "higher", "share"),
        ("eval_accuracy_noise_0.5", "higher", "share"),
    ],
)
def test_direction_and_unit_of_ours(name, better, unit):
    known = evaluation_quantity(name)
    assert (known.better, known.unit) == (better, unit)
    assert (known.kind == LIKELIHOOD) == (better == "lower")


@pytest.mark.parametrize("name", ["eval_f1", "rank", "eval_rewards/margins", "eval_bleu"])
def test_of_others_nothing_is_known(name):
    assert evaluation_quantity(name) is None
