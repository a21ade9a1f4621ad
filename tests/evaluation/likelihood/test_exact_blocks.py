"""Exact likelihoods of models with diffusion blocks: an order within each block, block after block, each given clean ones."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.evaluation.likelihood.exact import ExactScorer
from hf_difflm.evaluation.likelihood.exact_options import ORDERS, ExactOptions, ExactOrder, read_orders
from hf_difflm.evaluation.likelihood.sums import LikelihoodSums
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.objectives import BlockDiffusionObjective

LENGTH, VOCABULARY = 4, 3
SEQUENCES = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))


def order(name: str = "left_to_right", pace: str = "1") -> ExactOrder:
    (found,) = read_orders(ExactOptions(exact_order=name, tokens_per_step=pace))
    return found


ALL = [
    *(order(name, pace) for name in [*ORDERS, "random:7"] for pace in "123"),
    *(
        order("confidence", pace)
        for pace in ("entropy_bounded:0.9", "confidence_threshold:0.4", "entropy_bounded", "confidence_threshold")
    ),
]


@pytest.fixture
def network(tiny_denoiser):
    """In float64, so that no order hangs on rounding."""

    def make(size: int | None, vocabulary: int = VOCABULARY, **config) -> MaskedDiffusionForMaskedLM:
        return tiny_denoiser(vocabulary + 1, diffusion_block_size=size, **config).eval().double()

    return make


def batch(ids, labels=None, **more) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "labels": ids if labels is None else labels, "index": torch.arange(len(ids)), **more}


def nll(model, how: ExactOrder, given: dict[str, torch.Tensor] | None = None) -> np.ndarray:
    """(B,) nats of each row."""
    return ExactScorer(model, how, "blocks")([given or batch(SEQUENCES)]).unit_nll_KU[0]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("how", ALL, ids=lambda how: how.label)
def test_the_probabilities_of_all_texts_sum_to_one(network, how, size):
    assert np.exp(-nll(network(size), how)).sum() == pytest.approx(1, abs=1e-9)


def test_an_order_that_reads_what_it_has_not_revealed_is_told_apart(network):
    """The test above can fail: the number of the likelier of two orders is that of no order."""
    each = np.stack([nll(network(2), order(name)) for name in ("left_to_right", "random:7")])
    assert np.exp(-each.min(0)).sum() > 1 + 1e-3


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["left_to_right", "confidence", "random:7"])
def test_it_is_the_law_of_the_sampler(network, size, name):
    model, how, draws = network(size), order(name), 10_000
    empty = torch.zeros((draws, 0), dtype=torch.long)
    settings = {"sampler": how.sampler, "sampler_config": how.parameters, "max_denoising_steps": LENGTH}
    ids = model.generate(empty, max_new_tokens=LENGTH, seed=0, **settings)
    cell = (ids * VOCABULARY ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)
    observed = torch.bincount(cell, minlength=len(SEQUENCES)).double()
    expected = torch.from_numpy(np.exp(-nll(model, how))) * draws
    few = expected < 5
    observed, expected = (torch.cat([each[~few], each[few].sum()[None]]) for each in (observed, expected))
    statistic = ((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum()
    assert torch.special.gammaincc((torch.tensor(len(expected)) - 1).double() / 2, statistic / 2) > 1e-4


def of_block(model, ids: torch.Tensor, block: range, places: tuple[int, ...]) -> torch.Tensor:
    """(V + 1,) log-probabilities at the first of some hidden places of a block, of one forward; clean text before it."""
    seen = ids[: block.stop].clone()
    seen[list(places)] = model.config.mask_token_id
    with torch.no_grad():
        return model(seen[None]).logits[0, places[0]].log_softmax(-1)


def bound_by_enumeration(model, ids: torch.Tensor, size: int) -> float:
    """P4: sum_b L_b E_k E_M [(1/k) sum_{i in M} -log mu^i], every subset of every block in turn."""
    total = 0.0
    for first in range(0, len(ids), size):
        block = range(first, min(first + size, len(ids)))
        for k in range(1, len(block) + 1):
            for subset in itertools.combinations(block, k):
                for place in subset:
                    others = tuple(i for i in subset if i != place)
                    log_p = of_block(model, ids, block, (place, *others))[ids[place]]
                    total -= float(log_p) / k / math.comb(len(block), k)
    return total


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_mean_over_random_orders_is_the_bound(network, size):
    model, few = network(size), SEQUENCES[[5, 40, 77]]
    expected = [bound_by_enumeration(model, ids, size) for ids in few]
    # Orders within blocks are few: each of them once, so that the mean is exact.
    turns = {}
    for seed in range(200):
        turn_L = np.random.Generator(np.random.Philox(seed)).random(LENGTH)
        of_blocks = tuple(tuple(turn_L[first : first + size].argsort()) for first in range(0, LENGTH, size))
        turns.setdefault(of_blocks, seed)
    blocks = [min(size, LENGTH - first) for first in range(0, LENGTH, size)]
    assert len(turns) == math.prod(math.factorial(length) for length in blocks)
    found = np.array([nll(model, order(f"random:{seed}"), batch(few)) for seed in turns.values()])
    np.testing.assert_allclose(found.mean(0), expected, atol=1e-9)
    assert (found.std(0) > 1e-3).all() == (size > 1)


def evaluated(model, given: dict[str, torch.Tensor]):
    objective = BlockDiffusionObjective(model.config.mask_token_id, model.config.diffusion_block_size)
    return evaluate_likelihood(model, objective, [given], len(given["input_ids"]), data_unit="blocks")


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("how", ALL, ids=lambda how: how.label)
def test_blocks_of_one_token_have_the_number_of_eval_nll_in_every_order(network, how, shifted):
    model = network(1, shift_logits=shifted)
    found = evaluated(model, batch(SEQUENCES))
    assert (found.bound, found.nll_stderr) == ("exact", 0.0)
    np.testing.assert_allclose(nll(model, how), found.unit_nll, rtol=1e-6)
    assert np.exp(-found.unit_nll).sum() == pytest.approx(1, abs=1e-5)  # the first token does not see itself


@pytest.mark.parametrize("size", [LENGTH, LENGTH + 3])
@pytest.mark.parametrize("how", ALL, ids=lambda how: how.label)
def test_blocks_as_long_as_the_text_have_the_number_of_the_model_without_blocks(network, how, size):
    np.testing.assert_allclose(nll(network(size), how), nll(network(None), how), atol=1e-9)


MANY = 40


@pytest.fixture
def padded():
    """Rows of several lengths, with a BOS and prompts that are not scored, and a token between two answers."""
    ids = torch.randint(0, MANY, (5, 13), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(ids)
    labels = ids.clone()
    labels[:, 0] = -100
    labels[2, :6] = -100
    labels[4, :9] = -100
    attention[1, 9:], attention[3, 3:] = 0, 0
    labels[attention == 0] = -100
    labels[2, 8] = -100
    labels[0, 3:10] = -100  # a block without a scored token, between others
    return ids, labels, attention


def by_hand(model, ids: torch.Tensor, scored: torch.Tensor, name: str, pace: int) -> float:
    """Straight from the definition, a forward a step of the text up to the end of the block, without a cache."""
    size, mask_id, total = model.config.diffusion_block_size, model.config.mask_token_id, 0.0
    at_answer = model.config.diffusion_block_start == "answer"
    start = int(scored.nonzero()[0]) if at_answer else 0
    for first in range(start, len(ids), size):
        masked = [i for i in range(first, min(first + size, len(ids))) if scored[i]]
        holes, steps = len(masked), -(-len(masked) // pace)
        for step in range(1, steps + 1):
            seen = ids[: min(first + size, len(ids))].clone()
            seen[masked] = mask_id
            given = {"answer_starts": torch.tensor([start])} if at_answer else {}
            with torch.no_grad():
                log_p_LV = model(seen[None], **given).logits[0].log_softmax(-1)
            if name == "left_to_right":
                key = {i: i for i in masked}
            elif name == "confidence":
                key = {i: -log_p_LV[i].max() for i in masked}
            elif name == "margin":
                best = log_p_LV.exp().topk(2).values
                key = {i: best[i, 1] - best[i, 0] for i in masked}
            else:
                key = {i: torch.special.entr(log_p_LV[i].exp()).sum() for i in masked}
            count = math.ceil(holes * step / steps) - (holes - len(masked))
            for place in sorted(masked, key=key.get)[:count]:
                total -= float(log_p_LV[place, ids[place]])
                masked.remove(place)
    return total


@pytest.mark.parametrize("start", ["text", "answer"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("pace", [1, 2])
@pytest.mark.parametrize("name", ["left_to_right", "confidence", "margin", "entropy"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_with_its_cache_it_is_what_a_forward_a_step_says(network, padded, name, pace, shifted, start, side):
    ids, labels, attention = padded
    model = network(4, MANY, shift_logits=shifted, diffusion_block_start=start)
    rows = [(ids[row, :n], labels[row, :n] != -100) for row, n in enumerate(attention.sum(-1).tolist())]
    if side == "left":
        ids, labels, attention = (
            torch.stack([row.roll(int((real == 0).sum())) for row, real in zip(each, padded[2], strict=True)])
            for each in padded
        )
    found = nll(model, order(name, str(pace)), batch(ids, labels, attention_mask=attention))
    np.testing.assert_allclose(found, [by_hand(model, *row, name, pace) for row in rows], atol=1e-9)


@pytest.mark.parametrize("start", ["text", "answer"])
@pytest.mark.parametrize("how", [*ALL[::4], *ALL[-4:]], ids=lambda how: how.label)
def test_a_row_has_the_same_number_alone_and_in_a_batch(network, padded, how, start):
    ids, labels, attention = padded
    model = network(4, MANY, diffusion_block_start=start)
    scorer = ExactScorer(model, how, "blocks")
    together = scorer([batch(ids, labels, attention_mask=attention)])
    alone: list[LikelihoodSums] = []
    for row, length in enumerate(attention.sum(-1).tolist()):
        one = ids[row : row + 1, :length], labels[row : row + 1, :length]
        alone.append(scorer([batch(*one, attention_mask=torch.ones_like(one[0]))]))
    np.testing.assert_allclose(together.unit_nll_KU[0], [one.unit_nll_KU[0, 0] for one in alone], atol=1e-9)
    assert together.forwards == sum(one.forwards for one in alone)
    most = scorer.forwards(batch(ids, labels, attention_mask=attention)).sum()
    assert together.forwards == most if how.tokens_per_step else together.forwards <= most


def test_a_step_reads_the_block_and_not_the_text_before_it(network, padded):
    ids, labels, attention = padded
    model, read = network(4, MANY), []
    model.register_forward_pre_hook(lambda module, args, kwargs: read.append(args[0].shape[1]), with_kwargs=True)
    nll(model, order("entropy", "4"), batch(ids[3:], labels[3:], attention_mask=attention[3:]))
    # The row of 3 tokens, and that of one answer: its prompt and first block, then the last with the one before.
    assert sorted(read) == [3, 5, 12]
