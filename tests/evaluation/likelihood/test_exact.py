"""Exact likelihoods of deterministic orders: normalised, the law of the sampler, and in the mean over orders the bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from exact_models import TableModel

from hf_difflm.errors import UserError
from hf_difflm.evaluation.likelihood import batches
from hf_difflm.evaluation.likelihood.exact import ExactScorer
from hf_difflm.evaluation.likelihood.exact_options import ORDERS, ExactOptions, ExactOrder, read_orders

LENGTH, VOCABULARY = 4, 3
SEQUENCES = np.array(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))


def order(name: str = "left_to_right", pace: str = "1", block_length: int | None = None) -> ExactOrder:
    (found,) = read_orders(ExactOptions(exact_order=name, tokens_per_step=pace), block_length)
    return found


def batch(ids, labels=None, **more) -> dict[str, torch.Tensor]:
    ids = torch.as_tensor(ids)
    return {"input_ids": ids, "labels": ids if labels is None else labels, "index": torch.arange(len(ids)), **more}


def nll(model, ids, how: ExactOrder) -> np.ndarray:
    """(B,) nats of each sequence."""
    return ExactScorer(model, how, "blocks")([batch(ids)]).unit_nll_KU[0]


ALL = [
    *(order(name, pace, block) for name in [*ORDERS, "random:7"] for pace in "123" for block in (None, 2, 3)),
    *(
        order("confidence", pace, block)
        for pace in ("entropy_bounded:0.9", "confidence_threshold:0.4", "entropy_bounded", "confidence_threshold")
        for block in (None, 3)
    ),
]


@pytest.fixture
def model(random_denoiser) -> TableModel:
    """A denoiser that fits no distribution, so that every order has a likelihood of its own."""
    return TableModel(random_denoiser(LENGTH, VOCABULARY, 5).scores)


@pytest.mark.parametrize("how", ALL, ids=lambda how: how.label)
def test_the_probabilities_of_all_sequences_sum_to_one(model, how):
    assert math.isclose(np.exp(-nll(model, SEQUENCES, how)).sum(), 1, abs_tol=1e-9)


@pytest.mark.parametrize(
    "how",
    [
        order("left_to_right", "2"),
        order("random:7"),
        order("random:7", "2", 3),
        order("confidence"),
        order("confidence", "3"),
        order("margin", "1", 2),
        order("entropy", "2"),
        order("entropy", "entropy_bounded:0.9"),
        order("confidence", "confidence_threshold:0.4"),
        order("confidence", "confidence_threshold:0.4", 3),
    ],
    ids=lambda how: how.label,
)
def test_it_is_the_law_of_the_sampler(model, how):
    draws = 40_000
    steps = LENGTH
    if how.tokens_per_step is not None:
        ends = [*range(how.block_length or LENGTH, LENGTH, how.block_length or LENGTH), LENGTH]
        steps = sum(-(-(end - begin) // how.tokens_per_step) for begin, end in itertools.pairwise([0, *ends]))
    elif how.block_length:
        steps = 2 * LENGTH
    empty = torch.zeros((draws, 0), dtype=torch.long)
    settings = {"sampler": how.sampler, "sampler_config": how.parameters, "block_length": how.block_length}
    ids = model.generate(empty, max_new_tokens=LENGTH, max_denoising_steps=steps, seed=0, **settings)
    cell = (ids * VOCABULARY ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)
    observed = torch.bincount(cell, minlength=len(SEQUENCES)).double()
    expected = torch.from_numpy(np.exp(-nll(model, SEQUENCES, how))) * draws
    few = expected < 5
    observed, expected = (torch.cat([each[~few], each[few].sum()[None]]) for each in (observed, expected))
    keep = expected > 0
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    p = torch.special.gammaincc((keep.sum().double() - 1) / 2, statistic / 2)
    assert p > 1e-4
    assert not observed[~keep].any()


def test_the_mean_over_random_orders_is_the_bound(model):
    """-log p in the mean over uniform orders, one token at a time, is P0, term by term; here over all masks."""
    ids = SEQUENCES[[5, 40, 77]]
    bound = np.zeros(len(ids))
    for masked in itertools.product([False, True], repeat=LENGTH):
        k = sum(masked)
        if k:
            positions = np.flatnonzero(masked)
            seen = torch.from_numpy(np.where(masked, VOCABULARY, ids))
            for place in positions:
                scores = model.scores[(*seen.T, place)]
                log_p = scores.log_softmax(-1)[range(len(ids)), ids[:, place]].numpy()
                bound -= log_p / k / math.comb(LENGTH, k)
    orders = np.array([nll(model, ids, order(f"random:{seed}")) for seed in range(400)])
    error = orders.std(0, ddof=1) / math.sqrt(len(orders))
    assert (np.abs(orders.mean(0) - bound) < 4 * error).all()
    assert (error < 0.2).all()
    assert (orders.std(0) > 0.05).all()  # they are not one order


def _by_hand(model, ids_L, scored_L, attention_L):
    """Left to right, one forward a token, straight from the definition."""
    total, ids_L, true_L = 0.0, ids_L.clone(), ids_L
    mask_id = model.config.mask_token_id
    ids_L[scored_L] = mask_id
    for place in torch.nonzero(scored_L).flatten():
        logits_V = model(ids_L[None], attention_mask=attention_L[None]).logits[0, place].clone()
        logits_V[mask_id] = float("-inf")
        total -= float(logits_V.double().log_softmax(-1)[true_L[place]].detach())
        ids_L[place] = true_L[place]
    return total


@pytest.fixture
def padded():
    """Rows of three lengths, with a BOS and a prompt that are not scored; padded on the right."""
    ids = torch.randint(0, 256, (4, 9), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(ids)
    labels = ids.clone()
    labels[:, 0] = -100
    labels[2, :4] = -100
    attention[1, 7:], attention[3, 3:] = 0, 0
    labels[attention == 0] = -100
    labels[2, 6] = -100  # a token between two answers
    return ids, labels, attention


def test_context_and_padding_are_read_and_not_scored(tiny_denoiser, padded):
    ids, labels, attention = padded
    model = tiny_denoiser().eval()
    sums = ExactScorer(model, order(), "blocks")([batch(ids, labels, attention_mask=attention)])
    for row in range(len(ids)):
        expected = _by_hand(model, ids[row], labels[row] != -100, attention[row])
        assert sums.unit_nll_KU[0, row] == pytest.approx(expected, abs=1e-4)
    assert sums.unit_tokens.tolist() == (labels != -100).sum(-1).tolist()
    assert sums.forwards == int((labels != -100).sum())  # rows that are finished leave the batch


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("pace", ["1", "3", "adaptive"])
@pytest.mark.parametrize("block_length", [None, 4])
def test_a_row_has_the_same_number_alone_and_in_a_batch(tiny_denoiser, padded, name, pace, block_length):
    ids, labels, attention = padded
    if pace == "adaptive":
        if name not in ("confidence", "entropy"):
            pytest.skip("has a fixed pace")
        pace = {"confidence": "confidence_threshold:0.004", "entropy": "entropy_bounded:11"}[name]
    model, how = tiny_denoiser().eval(), order(name, pace, block_length)
    together = ExactScorer(model, how, "blocks")([batch(ids, labels, attention_mask=attention)])
    forwards = 0
    for row in range(len(ids)):
        one = slice(row, row + 1)
        alone = ExactScorer(model, how, "blocks")([batch(ids[one], labels[one], attention_mask=attention[one])])
        assert together.unit_nll_KU[0, row] == pytest.approx(alone.unit_nll_KU[0, 0], abs=1e-4)
        forwards += alone.forwards
    assert together.forwards == forwards
    most = ExactScorer(model, how, "blocks").forwards(batch(ids, labels)).sum()
    assert forwards == most if how.tokens_per_step else forwards < most


def test_only_the_rows_that_are_scored_pass_the_head_where_the_order_is_fixed(model):
    asked = []
    model.watch = lambda ids, positions: asked.append(len(positions))
    ExactScorer(model, order("random:1", "2"), "blocks")([batch(SEQUENCES[:5])])
    assert asked == [10, 10]
    asked.clear()
    ExactScorer(model, order("entropy", "2"), "blocks")([batch(SEQUENCES[:5])])
    assert asked == [20, 10]  # an order by entropy looks at every mask


def test_rows_go_apart_where_a_step_would_have_too_many_logits(model, monkeypatch):
    asked, expected = [], {name: nll(model, SEQUENCES, order(name, "2")) for name in ("entropy", "random:1")}
    monkeypatch.setattr(batches, "MOST_LOGITS", 30 * LENGTH * (VOCABULARY + 1))
    model.watch = lambda ids, positions: asked.append(len(positions))
    for name, most in (("entropy", 30 * LENGTH), ("random:1", 60 * 2)):  # the fixed order looks at what it reveals
        asked.clear()
        np.testing.assert_allclose(nll(model, SEQUENCES, order(name, "2")), expected[name], atol=1e-12)
        assert max(asked) == most


def test_labels_tell_apart_what_is_another_law():
    assert len({how.label for how in ALL}) == len(ALL)
    assert order("entropy", "entropy_bounded:0.5", 16).label == "entropy entropy_bounded:0.5 in 16"


@pytest.mark.parametrize(
    ("name", "pace", "words"),
    [
        ("low_confidence", "1", "drawn"),
        ("remdm", "1", "masks revealed tokens again"),
        ("ddpm_cache", "1", "eval_nll"),
        ("oracle", "1", "out of scope"),
        ("entropy_bounded", "1", "--tokens-per-step"),
        ("random:x", "1", "random:SEED"),
        ("margin:3", "1", "got 'margin:3'"),
        ("confidance", "1", "left_to_right"),
        ("margin,margin", "1", "twice"),
        ("confidence", "0", "positive integer"),
        ("confidence", "2:3", "positive integer"),
        ("margin", "entropy_bounded", "in the order entropy"),
        ("confidence", "entropy_bounded:much", "needs a number"),
    ],
)
def test_orders_without_such_a_likelihood_are_refused_with_the_reason(name, pace, words):
    with pytest.raises(UserError, match=words):
        order(name, pace)
