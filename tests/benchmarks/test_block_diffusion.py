"""``benchmarks/block_diffusion.py`` and ``benchmarks/few_rows.py`` at toy size: all sides run in turn."""

from __future__ import annotations

import pytest
from processes.toy_benchmark import toy


@pytest.mark.slow
def test_texts_and_steps_run_in_turn_and_the_forwards_are_those_there_must_be():
    found = toy("block_diffusion.py")
    (texts,) = found["texts"]
    assert set(texts["over_blocks"]) == {
        "linear",
        "ddpm_cache",
        "autoregressive",
        "autoregressive, fast head",
        "blocks of half the steps",
    }
    forwards = texts["mean_forwards_a_text"]
    assert forwards["blocks"] <= texts["steps"]
    assert forwards["blocks of half the steps"] <= texts["steps"] / 2
    assert all(run["bd3lm_over_mdlm"] > 0 for run in found["steps"])
    assert all(min(run["memory_above_start"].values()) > 0 for run in found["steps"])


@pytest.mark.slow
def test_a_head_of_few_rows_is_timed_both_ways():
    assert {run["rows"] for run in toy("few_rows.py")["runs"]} >= {1, 2, 16}
