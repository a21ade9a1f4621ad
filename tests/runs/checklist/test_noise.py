"""The checklist's question whether diffusion is at work: yes for noise as it is drawn, no for any other."""

from __future__ import annotations

import re

import numpy as np
import pytest
from noisy_runs import NOISE, STEPS, TOKENS, atat, drawn, found, outcomes, sound_run

from hf_difflm.runs.checklist.all_checks import check_run


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "options",
    [
        {"noise_sampling": "iid"},
        {"loss_form": "time"},
        {"loss_form": "time", "noise_sampling": "iid", "noise_schedule": "cosine"},
        {"loss_form": "time", "noise_schedule": "polynomial", "schedule_exponent": 3.0},
        {"loss_form": "time", "noise_schedule": "geometric"},
        {"count_law": "importance"},
        {"count_law": "importance", "count_law_exponent": 0.5, "noise_sampling": "iid"},
        {"count_law": "bell"},
        {"count_law": "bell", "count_law_centre": 0.6, "count_law_width": 0.1, "count_law_uniform_share": 0.5},
        {"count_law": "bell", "ragged": True},
        {"count_law": "importance", "ragged": True},
    ],
)
def test_noise_of_every_kind_passes(options, seed):
    run = sound_run(noise=drawn(seed=seed, **options), **options)
    assert outcomes(run, "passed") >= NOISE


IN_BLOCKS = {"diffusion_block_size": 5, "block_size": TOKENS + 1}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise_sampling": "iid"},
        {"noise_sampling": "pairs"},
        {"loss_form": "time", "noise_schedule": "cosine"},
        {"count_law": "bell"},
        {"count_law": "importance"},
        {"diffusion_block_size": 1},
        {"diffusion_block_size": TOKENS + 1},
    ],
    ids=str,
)
def test_noise_of_blocks_passes(options, seed):
    options = {**IN_BLOCKS, **options}
    run = sound_run(noise=drawn(seed=seed, **options), objective="bd3lm", **options)
    assert outcomes(run, "passed") >= NOISE


def test_blocks_that_grow_or_begin_at_answers_have_no_one_law():
    run = sound_run(noise=drawn(**IN_BLOCKS), objective="bd3lm", diffusion_block_size_schedule="1,5", **IN_BLOCKS)
    assert "diffusion blocks grow" in found(run)["masking rates as prescribed"].finding
    run = sound_run(noise=drawn(ragged=True, **IN_BLOCKS), objective="bd3lm", **IN_BLOCKS)
    assert "sequences differ in length" in found(run)["masking rates as prescribed"].finding


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        ({"masking_rate": np.full(STEPS, 0.15)}, {}),
        (drawn(**IN_BLOCKS), {"count_law": "bell"}),
        (drawn(count_law="bell", **IN_BLOCKS), {}),
        (drawn(**{**IN_BLOCKS, "diffusion_block_size": 11}), {}),
        ({"masking_rate": np.linspace(0.05, 1.15, STEPS)}, {}),
    ],
    ids=["15 %", "no bell", "a bell", "other blocks", "annealed"],
)
def test_noise_of_blocks_that_is_not_as_prescribed_is_a_cross(columns, options):
    run = sound_run(noise={**drawn(**IN_BLOCKS), **columns}, objective="bd3lm", **IN_BLOCKS, **options)
    assert found(run)["masking rates as prescribed"].outcome == "failed"


def test_a_law_that_is_measured_prescribes_no_rates_but_that_they_change():
    run = sound_run(noise=drawn(count_law="optimal"), count_law="optimal")
    assert "prescribes what is measured" in found(run)["masking rates as prescribed"].finding
    assert found(run)["noise drawn uniformly"].outcome == "passed"


@pytest.mark.parametrize("batch", [1, 5, TOKENS, 2 * TOKENS])
@pytest.mark.parametrize("ragged", [False, True])
def test_noise_passes_for_every_batch_size_and_for_sequences_of_different_lengths(batch, ragged):
    run = sound_run(noise=drawn(batch=batch, ragged=ragged), global_batch_size=batch)
    assert outcomes(run, "passed") >= NOISE


def test_the_optimiser_batch_follows_from_the_arguments_of_a_trainer():
    run = sound_run(global_batch_size=None, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    run.header.metadata["world_size"] = 2
    assert "counts of 8 stratified sequences" in found(run)["noise drawn uniformly"].finding


# ---- noise that is not as it should be ----


def constant(rate: float) -> dict[str, np.ndarray]:
    same = np.full(STEPS, rate)
    return {"masking_rate": same, "masking_rate_min": same, "masking_rate_max": same}


def annealed() -> dict[str, np.ndarray]:
    """From nearly all masked to nearly nothing: the mean is right."""
    rates = np.linspace(0.95, 0.05, STEPS)
    return {"masking_rate": rates, "masking_rate_min": rates - 0.04, "masking_rate_max": rates + 0.04}


@pytest.mark.parametrize(
    ("columns", "options"),
    [
        (constant(0.15), {}),
        (constant(0.5), {}),
        (annealed(), {}),
        (drawn(noise_sampling="iid"), {}),
        (drawn(), {"noise_sampling": "iid"}),
        (drawn(loss_form="time", noise_schedule="cosine"), {}),
        (drawn(loss_form="time"), {"loss_form": "time", "noise_schedule": "cosine"}),
        (drawn(batch=4), {}),
        (drawn(count_law="bell"), {}),
        (drawn(), {"count_law": "bell"}),
        (drawn(count_law="importance"), {"count_law": "importance", "count_law_exponent": 1.0}),
    ],
    ids=[
        "15 %",
        "half",
        "annealed",
        "iid",
        "stratified",
        "another form",
        "another schedule",
        "another batch",
        "a bell",
        "no bell",
        "another exponent",
    ],
)
def test_noise_that_is_not_as_prescribed_is_a_cross_with_the_numbers(columns, options):
    run = sound_run(noise={**drawn(), **columns}, **options)
    crosses = [check for check in check_run(run) if check.outcome == "failed"]
    assert {check.name for check in crosses} <= NOISE
    assert crosses
    assert all(check.advice and re.search(r"\d\.\d", check.finding) for check in crosses)


def test_one_rate_for_all_sequences_is_found_where_they_differ_in_length():
    run = sound_run(noise={**drawn(batch=64, ragged=True), **constant(0.15)}, global_batch_size=64)
    assert found(run)["noise drawn uniformly"].outcome == "failed"


def test_a_log_that_does_not_say_how_noise_is_drawn_is_asked_whether_it_changes():
    told = sound_run(loss_form=None)
    assert found(told)["noise drawn uniformly"].outcome == "passed"
    assert found(told)["masking rates as prescribed"].outcome == "unknown"
    constant_run = sound_run(noise={**drawn(), **constant(0.15)}, loss_form=None)
    assert found(constant_run)["noise drawn uniformly"].outcome == "failed"


def test_a_mean_rate_that_no_schedule_of_single_tokens_gives_is_a_cross():
    assert outcomes(atat(columns={"masking_rate": np.full(STEPS, 0.9)}), "failed") == {"masking rates as prescribed"}
