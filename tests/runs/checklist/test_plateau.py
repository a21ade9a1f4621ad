"""Whether a loss has left the entropy of the token frequencies: a tick, a cross with what helps, or too early to tell."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run

from hf_difflm.runs.checklist.plateau import plateau_check

ENTROPY = 3.3


def run_with(loss, *, objective="mdlm", status="completed", source=None, entropy=ENTROPY, planned=200, noise=0.15):
    loss = np.asarray(loss, dtype=np.float64) + noise * np.random.default_rng(0).standard_normal(len(loss))
    run = make_run(steps=len(loss), objective=objective, columns={"loss": loss}, max_steps=planned)
    run.header.metadata["unigram_entropy"] = entropy
    if source is not None:
        run.header.data["source_nll"] = source
    if status != "completed":
        run.events = run.events[:-1]
    return run


FALLING = 5.5 - np.linspace(0, 2, 200)
RESTING = np.concatenate([np.linspace(5.5, ENTROPY, 40), np.full(160, ENTROPY)])
LEARNT = np.concatenate([RESTING[:100], np.linspace(ENTROPY, 2.5, 100)])


@pytest.mark.parametrize(
    ("run", "outcome", "said"),
    [
        (run_with(LEARNT), "passed", "2.5"),
        (run_with(RESTING), "failed", "token frequencies alone give 3.3000"),
        (run_with(RESTING[:120], status="running"), "failed", "in the last 20 rows, up to step 120"),
        (run_with(RESTING, objective="ar"), "failed", "token frequencies"),
        (run_with(FALLING[:100], status="running"), "unknown", "it does not rest there"),
        (run_with(5.5 + 0 * FALLING), "unknown", "it does not rest there"),  # "loss falls" says that it does not
        (run_with(RESTING[:10], status="running"), "unknown", "too early to tell: 10 steps logged"),
        (run_with(RESTING, source=3.28), "unknown", "no more to learn of this source"),
        (run_with(RESTING, source=2.0), "failed", "token frequencies"),
        (run_with(RESTING, entropy=None), "unknown", "does not say how frequent"),
        (run_with(RESTING, entropy="x"), "unknown", "does not say how frequent"),
        (run_with(RESTING, entropy=0.0), "unknown", "does not say how frequent"),
    ],
)
def test_the_loss_of_the_last_tenth_is_judged_by_the_entropy_of_the_token_frequencies(run, outcome, said):
    check = plateau_check(run)
    assert check.outcome == outcome, check
    assert said in check.finding
    assert bool(check.advice) == (outcome == "failed")
    if check.advice:
        assert "more warmup_steps, a lower learning_rate, optim muon" in check.advice
        assert ("bell" in check.advice) == (run.objective != "ar")  # an autoregressive model masks nothing
