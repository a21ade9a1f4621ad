"""What the checklist takes for prescribed is what the objective draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from noisy_runs import BATCH, TOKENS, drawn

from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.runs.checklist.noise_law import NoiseLaw, ks_p_value

FORMS = [("any_order", "loglinear")] + [("time", name) for name in ("loglinear", "cosine", "polynomial", "geometric")]
LAWS = [(form, schedule, sampling) for form, schedule in FORMS for sampling in ("stratified", "iid")]


def law(form: str, schedule: str, sampling: str, batch: int = BATCH) -> NoiseLaw:
    return NoiseLaw(form, sampling != "iid", batch, TOKENS, schedule, pairs=sampling == "pairs")


@pytest.mark.parametrize("schedule", ["loglinear", "linear", "cosine", "polynomial", "geometric"])
def test_the_schedules_are_those_of_the_model(schedule):
    t = np.linspace(0.001, 0.999, 101)
    share = NoiseSchedule(schedule).mask_probability(torch.from_numpy(t)).numpy()
    mine = NoiseLaw("time", True, 1, 1, schedule)
    np.testing.assert_allclose(mine.hidden_share(t), share, rtol=1e-12)
    np.testing.assert_allclose(mine.time_of(-np.log1p(-share)), t, rtol=1e-7)


@pytest.mark.parametrize(("form", "schedule", "sampling"), LAWS)
def test_mean_and_spread_of_the_masking_rate_are_those_of_many_steps(form, schedule, sampling):
    steps = 2000
    rates = drawn(steps, loss_form=form, noise_sampling=sampling, noise_schedule=schedule)["masking_rate"]
    mean, spread = law(form, schedule, sampling).mean_and_spread(TOKENS)
    assert abs(rates.mean() - mean) < 4 * spread / np.sqrt(steps)
    assert rates.std() == pytest.approx(spread, rel=0.08)


COUNTS = [{"count_law": "importance"}, {"count_law": "bell", "count_law_width": 0.1}]


def law_of_counts(options: dict, batch: int = BATCH) -> NoiseLaw:
    numbers = {"counts": options["count_law"], "width": options.get("count_law_width", 0.2)}
    return NoiseLaw("any_order", options.get("noise_sampling") != "iid", batch, TOKENS, **numbers)


@pytest.mark.parametrize("sampling", ["stratified", "iid"])
@pytest.mark.parametrize("options", COUNTS)
def test_mean_and_spread_of_laws_of_counts_are_those_of_many_steps(options, sampling):
    steps, options = 2000, {**options, "noise_sampling": sampling}
    rates = drawn(steps, **options)["masking_rate"]
    mean, spread = law_of_counts(options).mean_and_spread(TOKENS)
    assert abs(rates.mean() - mean) < 4 * spread / np.sqrt(steps)
    assert rates.std() == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize("batch", [1, 3, 8, 64])
@pytest.mark.parametrize("options", [*COUNTS, {**COUNTS[0], "noise_sampling": "iid"}])
def test_of_laws_of_counts_least_and_largest_become_uniform_numbers(options, batch):
    columns = drawn(400, batch, seed=batch, **options)
    ends = columns["masking_rate_min"], columns["masking_rate_max"]
    uniform = law_of_counts(options, batch).uniform_extremes(*ends, np.random.default_rng(1))
    assert min(ks_p_value(values)[1] for values in uniform) > 1e-3


def test_pairs_hide_half_of_all_tokens_in_every_step():
    rates = drawn(50, noise_sampling="pairs")["masking_rate"]
    assert law("any_order", "loglinear", "pairs").mean_and_spread(TOKENS) == (0.5, 0.0)
    np.testing.assert_allclose(rates, 0.5)


@pytest.mark.parametrize("batch", [1, 3, 8, 64])
@pytest.mark.parametrize(("form", "schedule", "sampling"), [*LAWS, ("any_order", "loglinear", "pairs")])
def test_least_and_largest_become_uniform_numbers_for_every_batch_size(form, schedule, sampling, batch):
    columns = drawn(400, batch, loss_form=form, noise_sampling=sampling, noise_schedule=schedule, seed=batch)
    quantity = "masking_rate" if form == "any_order" else "noise_level"
    uniform = law(form, schedule, sampling, batch).uniform_extremes(
        columns[f"{quantity}_min"], columns[f"{quantity}_max"], np.random.default_rng(1)
    )
    assert uniform.min() >= 0
    assert uniform.max() <= 1
    assert min(ks_p_value(values)[1] for values in uniform) > 1e-3


def test_the_distance_from_uniform_is_that_of_scipys_test_and_the_chance_no_smaller():
    stats = pytest.importorskip("scipy.stats")
    for size in (20, 200):
        for power in (1.0, 1.3):
            values = np.random.default_rng(size).random(size) ** power
            distance, chance = ks_p_value(values)
            other = stats.kstest(values, "uniform")
            assert distance == pytest.approx(other.statistic)
            assert chance >= other.pvalue * 0.999
