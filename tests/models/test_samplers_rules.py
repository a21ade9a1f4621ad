"""Each sampler reveals what its rule says, against the rule worked out again by hand."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from exact_models import NeighbourModel
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.models.masked_diffusion.logit_statistics import Predictions
from hf_difflm.models.masked_diffusion.sampler_protocol import revealed_share
from hf_difflm.models.masked_diffusion.sampler_uncertainty import MEASURES, uncertainty
from hf_difflm.models.masked_diffusion.samplers import build_sampler
from hf_difflm.models.masked_diffusion.samplers_confidence import QuotaSampler

VOCABULARY, MASK, NEW = 9, 9, 12


def generate(sampler, parameters=None, *, model=None, rows=2, steps=NEW, **more):
    model = model or NeighbourModel()
    return model.generate(
        torch.tensor([[2], [5], [7]])[:rows],
        max_new_tokens=NEW,
        max_denoising_steps=steps,
        sampler=sampler,
        sampler_config=parameters or {},
        seed=4,
        return_dict_in_generate=True,
        output_history=True,
        **more,
    )


def replay(output, row=0):
    """For each step of a row: where it was masked, its distributions there, and where it was revealed."""
    model = NeighbourModel()
    steps = output.reveal_steps[row]
    for step in sorted(set(steps[steps > 0].tolist())):
        before = output.sequences[row].clone()
        before[steps >= step] = MASK
        masked = (before == MASK).nonzero().squeeze(-1)
        p = model(before[None], positions=masked).logits[:, :VOCABULARY].softmax(-1).numpy()
        yield step, masked.tolist(), p, [i for i, at in enumerate(masked.tolist()) if int(steps[at]) == step]


def entropy(p):
    return -(p * np.log(p)).sum(-1)


@pytest.mark.parametrize("steps", [1, 3, 5, NEW, 30])
@pytest.mark.parametrize("schedule", ["linear", "cosine", [1.0, 2.0, 5.0]])
def test_a_reveal_schedule_says_how_many(steps, schedule):
    output = generate("entropy", {"reveal_schedule": schedule}, steps=steps)
    counts = np.bincount(output.reveal_steps[0].numpy(), minlength=steps + 1)[1:]
    if schedule == "linear":
        curve = [step / steps for step in range(1, steps + 1)]
    elif schedule == "cosine":
        curve = [1 - math.cos(math.pi / 2 * step / steps) for step in range(1, steps + 1)]
    else:
        curve = [float(np.interp(3 * step / steps, [0, 1, 2, 3], [0, 1 / 8, 3 / 8, 1])) for step in range(1, steps + 1)]
    expected = [min(math.ceil(NEW * share - 1e-9), NEW) for share in curve]
    assert counts.cumsum().tolist() == expected


@given(
    st.sampled_from(["linear", "cosine"]) | st.lists(st.floats(0, 10), min_size=1, max_size=6).filter(any),
    st.integers(1, 40),
)
@settings(derandomize=True)
def test_a_reveal_schedule_rises_to_1(schedule, steps):
    shares = [revealed_share(schedule, step, steps) for step in range(1, steps + 1)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert shares[0] >= 0


@pytest.mark.parametrize(
    ("sampler", "parameters", "rank"),
    [
        ("entropy", {}, entropy),
        ("topk_margin", {}, lambda p: np.sort(p)[:, -2] - np.sort(p)[:, -1]),
        ("uncertainty", {"measure": "max_probability"}, lambda p: -p.max(-1)),
        ("uncertainty", {"measure": "margin"}, lambda p: np.sort(p)[:, -2] - np.sort(p)[:, -1]),
        ("uncertainty", {"measure": "variance"}, lambda p: -p.var(-1)),
        ("uncertainty", {"measure": "entropy", "order": "uncertain_first"}, lambda p: -entropy(p)),
    ],
)
def test_places_are_revealed_in_the_order_of_the_measure(sampler, parameters, rank):
    output = generate(sampler, parameters, steps=4)
    for _, _, p, revealed in replay(output):
        assert sorted(np.argsort(rank(p))[: len(revealed)].tolist()) == sorted(revealed)


def test_low_confidence_keeps_the_likeliest_of_greedy_tokens():
    output = generate("low_confidence", steps=4, do_sample=False)
    for _, masked, p, revealed in replay(output):
        assert sorted(np.argsort(-p.max(-1))[: len(revealed)].tolist()) == sorted(revealed)
        assert [int(output.sequences[0, masked[i]]) for i in revealed] == p.argmax(-1)[revealed].tolist()


def test_maskgit_plus_without_noise_is_low_confidence_and_with_noise_is_not():
    plain = generate("low_confidence").sequences
    assert torch.equal(generate("maskgit_plus", {"choice_temperature": 0.0}).sequences, plain)
    assert not torch.equal(generate("maskgit_plus", {"choice_temperature": 9.0}).sequences, plain)


@pytest.mark.parametrize("bound", [0.0, 0.5, 2.0, 1e9])
def test_entropy_bounded_reveals_the_most_that_stays_within_the_bound(bound):
    output = generate("entropy_bounded", {"bound": bound}, steps=NEW)
    for _, _, p, revealed in replay(output):
        sums = np.sort(entropy(p)).cumsum() - np.sort(entropy(p))
        assert len(revealed) == (sums <= bound + 1e-12).sum()
        assert sorted(np.argsort(entropy(p))[: len(revealed)].tolist()) == sorted(revealed)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
def test_confidence_threshold_reveals_what_is_above_it_and_at_least_one(threshold):
    output = generate("confidence_threshold", {"threshold": threshold}, steps=NEW)
    for _, _, p, revealed in replay(output):
        above = np.flatnonzero(p.max(-1) > threshold).tolist()
        assert sorted(revealed) == (above or [int(p.max(-1).argmax())])


@pytest.mark.parametrize("sampler", ["entropy_bounded", "confidence_threshold", "uncertainty"])
def test_too_few_steps_for_one_token_each_spread_the_rest(sampler):
    strictest = {
        "entropy_bounded": {"bound": 0},
        "confidence_threshold": {"threshold": 1},
        "uncertainty": {"budget": 0},
    }
    output = generate(sampler, strictest[sampler], steps=5)
    assert np.bincount(output.reveal_steps[0].numpy(), minlength=6)[1:].tolist() == [3, 3, 2, 2, 2]


@pytest.mark.parametrize("order", ["confident_first", "uncertain_first"])
def test_a_budget_is_spent_in_order_in_units_of_one_unknown_token(order):
    sign = 1 if order == "confident_first" else -1
    output = generate("uncertainty", {"budget": 1.2, "order": order}, steps=NEW)
    sizes = []
    steps = itertools.chain.from_iterable(replay(output, row) for row in range(2))
    for _, _, p, revealed in steps:
        u = entropy(p) / math.log(VOCABULARY)
        first = np.argsort(sign * u)
        expected = max(1, int((u[first].cumsum() <= 1.2).sum()))
        assert sorted(first[:expected].tolist()) == sorted(revealed)
        sizes.append(expected)
    assert len(set(sizes)) > 1  # it adapts


@pytest.mark.parametrize("measure", MEASURES)
def test_a_measure_is_0_for_one_token_1_for_none_known_and_never_outside(measure):
    sure = torch.full((1, 10), float("-inf"))
    sure[0, 3] = 0.0
    unknown = torch.zeros(1, 10)
    unknown[0, 9] = float("-inf")
    assert float(uncertainty(Predictions(sure), measure)) == 0
    # The largest probability of V equal ones is 1/V.
    assert float(uncertainty(Predictions(unknown), measure)) == pytest.approx(
        1 - 1 / 9 if measure == "max_probability" else 1
    )
    random = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 3
    random[:, 9] = float("-inf")
    values = uncertainty(Predictions(random), measure)
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("order", ["confident_first", "uncertain_first"])
@pytest.mark.parametrize("form", ["row", "batch", "callable"])
def test_importance_makes_places_count_as_more_uncertain(order, form):
    weights = torch.ones(1 + NEW)
    important = [2, 3, 7]
    weights[important] = 1e6
    seen = []

    def estimate(draft_RL):
        seen.append(draft_RL)
        return weights.expand(draft_RL.shape)

    given_form = {"row": weights, "batch": weights.expand(2, -1), "callable": estimate}[form]
    output = generate("uncertainty", {"order": order}, importance=given_form)
    at = output.reveal_steps[0, important].tolist()
    assert sorted(at) == ([1, 2, 3] if order == "uncertain_first" else [NEW - 2, NEW - 1, NEW])
    assert all(not (draft == MASK).any() for draft in seen)
    assert bool(seen) == (form == "callable")


def test_remdm_changes_revealed_tokens_and_no_other_does():
    def rewritten(history):
        return sum(int(((a != MASK) & (a != b)).sum()) for a, b in itertools.pairwise(history))

    assert rewritten(generate("remdm", {"eta": 0.3}, steps=30).history) > 0
    assert rewritten(generate("ddpm_cache", steps=30).history) == 0


def test_first_hitting_is_in_the_order_of_the_times_and_says_when_it_approximates(caplog):
    one = generate("first_hitting").reveal_steps[0, 1:]
    assert sorted(one.tolist()) == list(range(1, NEW + 1))
    fine = generate("ddpm_cache", steps=10**5).reveal_steps[0, 1:]
    assert one.argsort().tolist() == fine.argsort().tolist()
    three = generate("first_hitting", {"tokens_per_step": 3}).reveal_steps[0, 1:]
    assert torch.equal(three, (one + 2) // 3)
    logging.Logger.warning_once.cache_clear()  # it says a thing once in a process
    with caplog.at_level("WARNING"):
        generate("first_hitting", steps=5)
    assert "up to 3 tokens at a time, since 12 tokens have 5 steps: an approximation" in caplog.text
    with pytest.raises(ValueError, match=r"6 steps for 12 tokens, 2 a step, but has 5"):
        generate("first_hitting", {"tokens_per_step": 2}, steps=5)


@dataclass(frozen=True)
class LeftToRight(QuotaSampler):
    name: ClassVar[str] = "left_to_right"

    def rank(self, block, step, seen):
        return torch.from_numpy(seen.column_N).double()


def test_a_sampler_of_the_callers_own_fits_the_protocol():
    output = NeighbourModel().generate(
        torch.tensor([[2, 3]]),
        max_new_tokens=NEW,
        max_denoising_steps=NEW,
        sampler_config=LeftToRight(),
        return_dict_in_generate=True,
    )
    assert output.reveal_steps.tolist() == [[0, 0, *range(1, NEW + 1)]]


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("ddpm_cach", {}, "did you mean ddpm_cache"),
        ("entropy_bounded", {"bouns": 1}, "did you mean bound"),
        ("ddpm", {"bound": 1}, "it has none"),
        ("remdm", {"eta": 2}, "eta must be between 0 and 1, got 2"),
        ("maskgit_plus", {"choice_temperature": -1}, "choice_temperature"),
        ("entropy_bounded", {"bound": float("nan")}, "bound"),
        ("entropy_bounded", {"bound": "much"}, "bound"),
        ("confidence_threshold", {"threshold": 90}, "threshold"),
        ("uncertainty", {"measure": "entropie"}, "entropie"),
        ("uncertainty", {"order": "random"}, "order"),
        ("uncertainty", {"budget": -1}, "budget"),
        ("entropy", {"reveal_schedule": "square"}, "square"),
        ("entropy", {"reveal_schedule": []}, "reveal_schedule"),
        ("entropy", {"reveal_schedule": [0, 0]}, "reveal_schedule"),
        ("entropy", {"reveal_schedule": [1, -1]}, "reveal_schedule"),
        ("first_hitting", {"tokens_per_step": 0}, "tokens_per_step"),
    ],
)
def test_a_wrong_sampler_or_parameter_is_one_sentence(name, parameters, says):
    with pytest.raises(ValueError, match=says) as failure:
        build_sampler(name, parameters)
    assert "\n" not in str(failure.value)
